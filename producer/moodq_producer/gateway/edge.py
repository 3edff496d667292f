"""The outermost layer: a request's id, the headers of every answer, metrics, a log line, the last catch.

Plain ASGI, so that it costs next to nothing and streams pass through as they come.
"""

from __future__ import annotations

import logging
import re
import time
from uuid import uuid4

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from moodq_config.logs import EXTRA
from moodq_producer.gateway import problems
from moodq_producer.gateway.metrics import GatewayMetrics

log = logging.getLogger(__name__)

REQUEST_ID_HEADER = "X-Request-Id"
#: Where routes find the request's id; where they leave the name of its key, and that it is a stream.
REQUEST_ID_SCOPE = "moodq_request_id"
KEY_SCOPE = "moodq_key"
STREAM_SCOPE = "moodq_stream"

_REQUEST_ID = re.compile(rb"[A-Za-z0-9_.\-]{1,128}")

#: Nothing from elsewhere, nothing inline, nobody's frame: the page needs no more.
SECURITY_HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)
_NO_STORE = (b"cache-control", b"no-store")


class Edge:
    """Around the whole app."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = _id_of(scope)
        scope[REQUEST_ID_SCOPE] = request_id
        extra = [*SECURITY_HEADERS, (REQUEST_ID_HEADER.lower().encode(), request_id.encode())]
        if scope["path"].startswith("/v1/"):
            extra.append(_NO_STORE)
        status = 0
        first_byte_s = 0.0

        async def send_with_headers(message: Message) -> None:
            nonlocal status, first_byte_s
            if message["type"] == "http.response.start":
                status = message["status"]
                first_byte_s = time.perf_counter() - began
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception as error:
            log.error("request %s failed", request_id, exc_info=error)
            if not status:
                await problems.internal()(scope, receive, send_with_headers)
        finally:
            took_s = first_byte_s if scope.get(STREAM_SCOPE) else time.perf_counter() - began
            self._metrics.count(route_of(scope), status, took_s)
            _tell(scope, status, took_s, request_id)


def route_of(scope: Scope) -> str:
    """The route's path as the code has it: a bounded label."""
    path = getattr(scope.get("route"), "path", None)
    if isinstance(path, str):
        return path
    return "/static" if scope["path"].startswith("/static/") else "other"


def _tell(scope: Scope, status: int, took_s: float, request_id: str) -> None:
    method, path, key = scope["method"], scope["path"], scope.get(KEY_SCOPE, "-")
    fields = {
        "event.action": "request",
        "event.duration": int(took_s * 1e9),
        "http.request.id": request_id,
        "http.request.method": method,
        "http.response.status_code": status,
        "url.path": path,
        "user.name": key,
    }
    said = f"{method} {path} {status} in {1000 * took_s:.1f} ms, key {key}, request {request_id}"
    log.info("%s", said, extra={EXTRA: fields})


def _id_of(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return uuid4().hex
