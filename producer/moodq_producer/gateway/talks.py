"""The routes for people who answer customers: see a conversation, take it over, answer, give it back."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from moodq_config.contracts import ID_PATTERN
from moodq_config.conversations import Conversation, Takeover, Turn
from moodq_config.errors import BadInput
from moodq_producer.gateway.access import admit
from moodq_producer.gateway.bodies import json_body, read_object
from moodq_producer.gateway.items import PROBLEMS, Shared
from moodq_producer.gateway.services import Services

ConversationId = Annotated[
    str,
    Path(pattern=ID_PATTERN, description="the conversation's id", examples=["anna-7"], max_length=128),
]

router = APIRouter(dependencies=[Depends(admit)], tags=["conversations"])


class TakeoverBody(BaseModel):
    """``by``: who answers from now on."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"by": "Ann"}]})

    by: str = Field(min_length=1, max_length=128)


class TurnBody(BaseModel):
    """What a person says to the customer, and who it is."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "我是小李，马上帮您处理。", "by": "小李"}]}
    )

    text: str = Field(min_length=1)
    by: str | None = Field(None, min_length=1, max_length=128)


class Released(BaseModel):
    """``released``: whether somebody had taken it over."""

    id: str
    released: bool


@router.get(
    "/v1/conversations/{id}", summary="See a conversation", response_model=Conversation, responses=PROBLEMS
)
async def show(id: ConversationId, services: Shared) -> JSONResponse:
    """Its turns in order, and who has taken it over; without turns when nothing was said, or long ago."""
    found = await services.client.conversations.show(id)
    return JSONResponse(_shown(found) | {"taken_over": found.taken_over and _shown(found.taken_over)})


@router.post(
    "/v1/conversations/{id}/takeover",
    summary="Answer in place of the model",
    response_model=Takeover,
    responses=PROBLEMS,
    openapi_extra=json_body(TakeoverBody),
)
async def take_over(id: ConversationId, request: Request, services: Shared) -> JSONResponse:
    """Items of the conversation get their labels and no reply; one that is being written stops."""
    body = await _strings(request, services, "by")
    if "by" not in body:
        raise BadInput("field 'by': say who takes over", field="by")
    return JSONResponse(_shown(await services.client.conversations.take_over(id, body["by"])))


@router.delete(
    "/v1/conversations/{id}/takeover",
    summary="Let the model answer again",
    response_model=Released,
    responses=PROBLEMS,
)
async def release(id: ConversationId, services: Shared) -> JSONResponse:
    """A takeover also ends by itself, MOODQ_TAKEOVER_TTL_S after the person's last word."""
    return JSONResponse({"id": id, "released": await services.client.conversations.release(id)})


@router.post(
    "/v1/conversations/{id}/turns",
    summary="Add a person's answer",
    response_model=Turn,
    responses=PROBLEMS,
    openapi_extra=json_body(TurnBody),
)
async def say(id: ConversationId, request: Request, services: Shared) -> JSONResponse:
    """It joins the history that the model knows when it answers again."""
    body = await _strings(request, services, "text", "by")
    if "text" not in body:
        raise BadInput("field 'text': send what is said", field="text")
    return JSONResponse(_shown(await services.client.conversations.say(id, body["text"], body.get("by"))))


async def _strings(request: Request, services: Services, *names: str) -> dict[str, str]:
    """The body, which holds only strings of these names; null counts as left out."""
    body = await read_object(request, services.settings.gateway_max_body_kb * 1024)
    for name, value in body.items():
        if name not in names:
            raise BadInput(f"the body has other fields than {', '.join(names)}; leave them out")
        if value is not None and not isinstance(value, str):
            raise BadInput(f"field {name!r}: send a string", field=name)
    return {name: value for name, value in body.items() if value is not None}


def _shown(found: BaseModel) -> dict[str, Any]:
    return found.model_dump(mode="json", exclude_none=True)
