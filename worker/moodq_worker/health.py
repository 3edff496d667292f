"""``/metrics``, ``/healthz`` and ``/readyz`` over HTTP, on loopback unless told otherwise.

``/healthz`` says whether the loop still turns (restart me if not), ``/readyz`` whether work is taken.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from moodq_config.http_pages import Page, PageServer

#: Returns None when all is well, else what is not.
Check = Callable[[], str | None]


class HealthServer(PageServer):
    """Binds at once, so that a taken port is known before a model is loaded.

    Raises ``Unavailable`` (port_taken).
    """

    def __init__(
        self, host: str, port: int, registry: CollectorRegistry, *, alive: Check, ready: Check
    ) -> None:
        def metrics(accept: str) -> Page:
            encode, content_type = choose_encoder(accept)
            return Page(encode(registry), content_type=content_type)

        pages = {"/metrics": metrics, "/healthz": _state(alive), "/readyz": _state(ready)}
        super().__init__(host, port, pages, option="MOODQ_METRICS_PORT")


def _state(check: Check) -> Callable[[str], Page]:
    def state(accept: str) -> Page:
        problem = check()
        return Page(f"{problem or 'ok'}\n".encode(), 503 if problem else 200)

    return state
