"""A few read-only pages over HTTP, for machines: metrics, health, discovery. No framework, no state."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from moodq_config.errors import ErrorCode, Unavailable

log = logging.getLogger(__name__)

#: Seconds a peer may be silent: one that sends nothing keeps no thread for ever.
REQUEST_TIMEOUT_S = 10
PLAIN = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Page:
    body: bytes
    status: int = 200
    content_type: str = PLAIN


#: Makes a page for a request's ``Accept`` header.
MakePage = Callable[[str], Page]


class PageServer:
    """Binds at once. ``option`` names what chose the port, for the error. Raises ``Unavailable``
    (port_taken)."""

    def __init__(self, host: str, port: int, pages: Mapping[str, MakePage], *, option: str) -> None:
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(pages))
        except OSError as error:
            raise Unavailable(
                f"{option}: cannot listen on {host}:{port} ({error.strerror}); stop what uses it, "
                "choose another port, or 0 for any free one",
                code=ErrorCode.PORT_TAKEN,
            ) from error
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="pages", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(timeout=2)


def _handler(pages: Mapping[str, MakePage]) -> type[BaseHTTPRequestHandler]:
    known = f"try {', '.join(pages)}\n".encode()

    class Handler(BaseHTTPRequestHandler):
        server_version = "moodq"
        sys_version = ""
        timeout = REQUEST_TIMEOUT_S

        def do_GET(self) -> None:
            make = pages.get(self.path.partition("?")[0])
            page = make(self.headers.get("Accept", "")) if make else Page(known, 404)
            self.send_response(page.status)
            self.send_header("Content-Type", page.content_type)
            self.send_header("Content-Length", str(len(page.body)))
            self.end_headers()
            self.wfile.write(page.body)

        def log_message(self, format: str, *args: Any) -> None:
            log.debug("http " + format, *args)

    return Handler
