"""The route that follows an item as it is made: server-sent events, resumed by ``Last-Event-ID``."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from fastapi.responses import Response, StreamingResponse
from fastapi.sse import format_sse_event
from starlette.types import Receive, Scope, Send

from moodq_config.errors import BadInput, ErrorCode
from moodq_producer.gateway.access import admit
from moodq_producer.gateway.edge import STREAM_SCOPE
from moodq_producer.gateway.event_hub import SILENCE, START
from moodq_producer.gateway.items import NOT_FOUND, PROBLEMS, Shared
from moodq_producer.gateway.results import ItemId, found_of
from moodq_producer.gateway.services import Services

router = APIRouter(dependencies=[Depends(admit)], tags=["texts"])

#: Milliseconds after which a browser comes back when the connection was lost.
RECONNECT_MS = 1_000

_ENTRY_ID = re.compile(r"\d{1,16}(-\d{1,16})?")
_EVENT_NAME = re.compile(r"[a-z_]{1,64}")

_EXAMPLE = """\
id: 1767323045678-0
event: label
data: {"sentiment": {"label": "negative", "probability": 0.97, "scores": {"negative": 0.97}}}

id: 1767323045712-0
event: token
data: {"task": "reply", "text": "I'm sorry"}

"""


class EventStream(StreamingResponse):
    """A stream that counts as open while it is sent."""

    def __init__(self, services: Services, id: str, after: str) -> None:
        headers = {"X-Accel-Buffering": "no"}  # nginx would hold it back
        super().__init__(_lines(services, id, after), headers=headers, media_type="text/event-stream")
        self._services = services

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[STREAM_SCOPE] = True
        with self._services.held_open(self._services.metrics.streams):
            await super().__call__(scope, receive, send)


@router.get(
    "/v1/stream/{id}",
    summary="Follow a text as it is worked on",
    response_model=None,
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "`label`, `token` and `done`, as docs/protocol.md tells; `done` is the last",
            "content": {"text/event-stream": {"example": _EXAMPLE}},
        },
        204: {"description": "All of it had been seen; do not come back"},
        **NOT_FOUND,
        **PROBLEMS,
    },
)
async def stream(
    id: ItemId,
    request: Request,
    services: Shared,
    last_event_id: Annotated[
        str | None, Header(description="the id of the last event seen; only later ones are sent")
    ] = None,
) -> Response:
    """While nothing happens a comment is sent now and then. The stream outlives a restart of Redis; when the
    gateway itself restarts, come back with Last-Event-ID."""
    after = last_event_id or START
    if not _ENTRY_ID.fullmatch(after):
        raise BadInput("header 'Last-Event-ID': not the id of an event", field="Last-Event-ID")
    held = await services.hub.now(id, after)
    if not held:
        found = await found_of(services, id)
        if found is None:
            raise BadInput(
                "no result and no job of this id: it was never sent, or is older than MOODQ_RESULT_TTL_S",
                code=ErrorCode.NOT_FOUND,
            )
        if isinstance(found, bytes) and after != START and not await services.hub.now(id, after):
            return Response(status_code=204)
    return EventStream(services, id, after)


async def _lines(services: Services, id: str, after: str) -> AsyncGenerator[bytes, None]:
    yield format_sse_event(retry=RECONNECT_MS)
    if services.ending:
        return
    silence_s = services.settings.gateway_heartbeat_s
    async with aclosing(services.hub.follow(id, after, silence_s)) as entries:
        async for entry in entries:
            if services.ending:
                return
            if entry is SILENCE:
                yield format_sse_event(comment="still here")
            elif _EVENT_NAME.fullmatch(entry.event):
                yield format_sse_event(data_str=entry.data, event=entry.event, id=entry.id)
