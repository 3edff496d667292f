"""``/metrics``, ``/healthz`` and ``/readyz`` over HTTP, on loopback unless told otherwise.

``/healthz`` says whether the loop still turns (restart me if not), ``/readyz`` whether work is taken.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from moodq_config.errors import ErrorCode, Unavailable

log = logging.getLogger(__name__)

#: Seconds a peer may be silent: one that sends nothing keeps no thread for ever.
REQUEST_TIMEOUT_S = 10

#: Returns None when all is well, else what is not.
Check = Callable[[], str | None]


class HealthServer:
    """Binds at once, so that a taken port is known before a model is loaded.

    Raises ``Unavailable`` (port_taken).
    """

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, *, alive: Check, ready: Check
    ) -> None:
        handler = _handler(registry, alive, ready)
        try:
            self._server = ThreadingHTTPServer((host, port), handler)
        except OSError as error:
            raise Unavailable(
                f"MOODQ_METRICS_PORT: cannot listen on {host}:{port} ({error.strerror}); stop what uses it, "
                "choose another port, or 0 for any free one",
                code=ErrorCode.PORT_TAKEN,
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2)


def _handler(registry: CollectorRegistry, alive: Check, ready: Check) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        server_version = "moodq"
        sys_version = ""
        timeout = REQUEST_TIMEOUT_S

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path == "/metrics":
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._answer(200, encode(registry), content_type)
            elif path in ("/healthz", "/readyz"):
                problem = (alive if path == "/healthz" else ready)()
                self._answer(
                    503 if problem else 200, f"{problem or 'ok'}\n".encode(), "text/plain; charset=utf-8"
                )
            else:
                self._answer(404, b"try /metrics, /healthz or /readyz\n", "text/plain; charset=utf-8")

        def _answer(self, status: int, body: bytes, content_type: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            log.debug("http " + format, *args)

    return Handler
