"""What requests carry: bodies of JSON, read within their limit and taken apart; and how OpenAPI shows them.

Items are checked by the client's own parser, so that a text refused here is refused for the same reason, with
the same code, as one that comes through Redis.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from moodq_config.contracts import MAX_TASKS_PER_ITEM, Id, RequestItem, TaskName
from moodq_config.errors import BadInput, ErrorCode
from moodq_config.settings import Settings
from moodq_producer.client import DEFAULT_TASKS

#: Seconds POST /v1/analyze waits when the request does not say.
DEFAULT_WAIT_S = 10.0
IDEMPOTENCY_KEY = "Idempotency-Key"


class ItemBody(RequestItem):
    """An item of docs/protocol.md."""

    tasks: tuple[TaskName, ...] = Field(DEFAULT_TASKS, min_length=1, max_length=MAX_TASKS_PER_ITEM)


class AnalyzeBody(ItemBody):
    """An item of docs/protocol.md. ``wait_s``: seconds to wait for its result, at most
    MOODQ_GATEWAY_MAX_WAIT_S."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "今天的实验终于成功了，太棒了！", "tasks": ["sentiment", "reply"], "wait_s": 20},
                {
                    "text": "My package arrived broken and nobody answers.",
                    "lang": "en",
                    "metadata": {"order": 17},
                },
            ]
        }
    )

    wait_s: float = Field(DEFAULT_WAIT_S, ge=0)


class JobBody(ItemBody):
    """An item of docs/protocol.md. ``callback_url``: where its result is sent, see docs/gateway.md."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"id": "order-17", "text": "等了两个小时还没到，差评", "tasks": ["sentiment"]},
                {"text": "Thanks, all good.", "queue": "bulk"},
            ]
        }
    )

    queue: str | None = None
    callback_url: str | None = None


class BatchBody(BaseModel):
    """Items that go as one job; each gets its own result."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "items": [
                        {"id": "row-1", "text": "谢谢，很好用"},
                        {"id": "row-2", "text": "It never worked."},
                        {"id": "row-3", "text": "   "},
                    ],
                    "queue": "bulk",
                }
            ]
        },
    )

    items: list[ItemBody] = Field(min_length=1)
    queue: str = "bulk"


class Accepted(BaseModel):
    """An item that is on its way."""

    id: Id
    status: str = Field(examples=["queued"])


class Rejected(BaseModel):
    """An item of a batch that was refused: its place from 0, and why."""

    index: int = Field(examples=[2])
    code: str = Field(examples=["empty_text"])
    detail: str = Field(examples=["text is empty; send at least one character that is not white space"])


class BatchAccepted(BaseModel):
    """What became of a batch: the job's id, the ids of the items that are in it, and those that are not."""

    job: str = Field(examples=["chunk-1f2e3d4c5b6a79880a1b2c3d4e5f6071"])
    ids: list[Id] = Field(examples=[["row-1", "row-2"]])
    rejected: list[Rejected]


@dataclass(frozen=True, slots=True)
class Split:
    """A body, without the fields that are the gateway's own."""

    item: dict[str, Any]
    own: dict[str, Any]


async def read_object(request: Request, max_bytes: int) -> dict[str, Any]:
    """The body, which is one JSON object. Raises ``BadInput``."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        # Also what keeps another site's page out: a browser asks before it sends this type across.
        raise BadInput(
            "send the body as Content-Type: application/json", code=ErrorCode.UNSUPPORTED_MEDIA_TYPE
        )
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > max_bytes:
            raise BadInput(
                f"the body has more than {max_bytes} bytes; send less at once, or raise "
                "MOODQ_GATEWAY_MAX_BODY_KB",
                code=ErrorCode.BODY_TOO_LARGE,
                limit=max_bytes,
            )
    try:
        found = json.loads(body.decode("utf-8"), parse_constant=_refuse)
    except UnicodeDecodeError as error:
        raise BadInput(
            f"the body is not UTF-8 (byte {error.start}); send JSON in UTF-8", code=ErrorCode.INVALID_UTF8
        ) from None
    except (ValueError, RecursionError):
        raise BadInput("the body is not JSON", code=ErrorCode.BROKEN_JSON) from None
    if not isinstance(found, dict):
        raise BadInput("the body is not a JSON object", code=ErrorCode.BROKEN_JSON)
    return found


def split(body: Mapping[str, Any], request: Request, *own: str) -> Split:
    """The item's fields, its id from the header where the body has none, and those called ``own``."""
    item = {name: value for name, value in body.items() if name not in own}
    key = request.headers.get(IDEMPOTENCY_KEY)
    if key is not None and item.get("id") is None:
        item["id"] = key
    if item.get("id", ...) is None:
        del item["id"]
    return Split(item, {name: body[name] for name in own if body.get(name) is not None})


def wait_s_of(own: Mapping[str, Any], settings: Settings) -> float:
    """How long to wait. Raises ``BadInput``."""
    most = settings.gateway_max_wait_s
    value = own.get("wait_s", min(DEFAULT_WAIT_S, most))
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadInput("field 'wait_s': send a number of seconds", field="wait_s", limit=most)
    if not 0 <= value <= most:
        raise BadInput(
            f"field 'wait_s': {value} is not between 0 and {most:g}; wait less, follow GET /v1/stream/ID, or "
            "raise MOODQ_GATEWAY_MAX_WAIT_S",
            field="wait_s",
            limit=most,
        )
    return float(value)


def queue_of(own: Mapping[str, Any], settings: Settings, default: str) -> str:
    """The queue to send to. Raises ``BadInput``."""
    queue = own.get("queue", default)
    if not isinstance(queue, str) or queue not in settings.queues:
        raise BadInput(
            f"field 'queue': not one of the queues here ({', '.join(settings.queues)})", field="queue"
        )
    return queue


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """``openapi_extra`` of a route that reads its body itself."""
    schema = model.model_json_schema()
    for part in schema.get("properties", {}).values():
        if (name := part.get("items", {}).get("$ref", "").rpartition("/")[2]) in schema.get("$defs", {}):
            part["items"] = schema["$defs"][name]  # a document's components are FastAPI's
    schema.pop("$defs", None)
    examples = {f"example {n}": {"value": one} for n, one in enumerate(schema.pop("examples"), 1)}
    content = {"application/json": {"schema": schema, "examples": examples}}
    return {"requestBody": {"required": True, "content": content}}


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
