"""The routes that send texts and give their results: analyze, jobs, batch, results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response

from moodq_config.contracts import RequestItem, Result
from moodq_config.errors import BadInput, ErrorCode, MoodqError
from moodq_config.names import BULK, INTERACTIVE
from moodq_producer.gateway import problems
from moodq_producer.gateway.access import Caller, admit
from moodq_producer.gateway.bodies import (
    IDEMPOTENCY_KEY,
    Accepted,
    AnalyzeBody,
    BatchAccepted,
    BatchBody,
    JobBody,
    json_body,
    queue_of,
    read_object,
    split,
    wait_s_of,
)
from moodq_producer.gateway.edge import REQUEST_ID_SCOPE
from moodq_producer.gateway.openapi import RESULT_EXAMPLE
from moodq_producer.gateway.problems import Problem
from moodq_producer.gateway.results import ItemId, document, found_of, remember, results_of
from moodq_producer.gateway.services import Services, services_of

router = APIRouter(dependencies=[Depends(admit)], tags=["texts"])

Shared = Annotated[Services, Depends(services_of)]

_ACCEPTED = {
    "model": Accepted,
    "description": "On its way; Location says where its result will be",
    "content": {"application/json": {"example": {"id": "order-17", "status": "queued"}}},
}
_RESULT = {
    "model": Result,
    "description": "The result, as in docs/protocol.md; done or failed",
    "content": {"application/json": {"example": RESULT_EXAMPLE}},
}
#: What any route under /v1 may answer.
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "The body is not JSON",
        401: "No valid API key",
        413: "Over a limit",
        415: "The body is not application/json",
        422: "A field is wrong",
        429: "Too many requests with this key; see Retry-After",
        500: "A fault of moodq",
        503: "The queue is full, or Redis is away; see Retry-After",
    }.items()
}
NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "Never sent, or expired"}
}


@router.post(
    "/v1/analyze",
    summary="Send a text and wait for its result",
    response_model=None,
    responses={200: _RESULT, 202: _ACCEPTED, **PROBLEMS},
    openapi_extra=json_body(AnalyzeBody),
)
async def analyze(request: Request, services: Shared) -> Response:
    """The result as soon as it is there; 202 when the wait ended first, and the text is worked on still."""
    parts = split(await _body(request, services), request, "wait_s")
    wait_s = wait_s_of(parts.own, services.settings)
    item = services.client.item(parts.item)
    await _send(services, request, [item], _default_queue(services, INTERACTIVE))
    result = await services.wait(item.id, wait_s)
    return _accepted(item.id) if result is None else document(result)


@router.post(
    "/v1/jobs",
    summary="Send a text",
    status_code=202,
    response_model=None,
    responses={202: _ACCEPTED, **PROBLEMS},
    openapi_extra=json_body(JobBody),
)
async def send(request: Request, services: Shared, caller: Caller) -> Response:
    """Sent again with the same id, or the same Idempotency-Key, it is not run again. With `callback_url` its
    result is sent there, signed."""
    parts = split(await _body(request, services), request, "queue", "callback_url")
    queue = queue_of(parts.own, services.settings, _default_queue(services, INTERACTIVE))
    url = parts.own.get("callback_url")
    if url is not None:
        url = services.callbacks.check(url)
    item = services.client.item(parts.item)
    owed = await services.callbacks.owe(item.id, url, caller) if url is not None else None
    try:
        await _send(services, request, [item], queue)
    except MoodqError:
        if owed is not None:
            await services.callbacks.undo(owed)
        raise
    return _accepted(item.id)


@router.delete(
    "/v1/jobs/{id}",
    summary="Cancel a text",
    response_model=Accepted,
    responses=PROBLEMS,
)
async def cancel(id: ItemId, services: Shared) -> JSONResponse:
    """`cancelled`: it is not run, and a reply under way stops. `ended`: it had its result before."""
    cancelled = await services.client.cancel(id)
    return JSONResponse({"id": id, "status": "cancelled" if cancelled else "ended"})


@router.post(
    "/v1/batch",
    summary="Send many texts",
    status_code=202,
    response_model=None,
    responses={
        202: {"model": BatchAccepted, "description": "Those not in `rejected` are on their way"},
        **PROBLEMS,
    },
    openapi_extra=json_body(BatchBody),
)
async def batch(request: Request, services: Shared) -> Response:
    """They go as one job. Items that are refused do not keep the others back. With an Idempotency-Key, items
    without an id get KEY-NUMBER as theirs."""
    body = await _body(request, services)
    if set(body) - {"items", "queue"}:
        raise BadInput("the body has other fields than 'items' and 'queue'; leave them out")
    queue = queue_of(body, services.settings, _default_queue(services, BULK))
    raws = body.get("items")
    if not isinstance(raws, list) or not raws:
        raise BadInput("field 'items': send a list of 1 or more items", field="items")
    most = services.settings.max_items_per_job
    if len(raws) > most:
        raise BadInput(
            f"field 'items' has {len(raws)} items, the limit is {most}; send several batches",
            code=ErrorCode.TOO_MANY_ITEMS,
            field="items",
            limit=most,
        )
    items, rejected = _checked(services, raws, request.headers.get(IDEMPOTENCY_KEY))
    if not items:
        return problems.problem(
            ErrorCode.INVALID_FIELD, "all items are wrong", field="items", rejected=rejected
        )
    ids = [item.id for item in items]
    await remember(services, ids)
    job = await _send(services, request, items, queue)
    return JSONResponse({"job": job, "ids": ids, "rejected": rejected}, 202)


@router.get(
    "/v1/results/{id}",
    summary="The result of a text",
    response_model=None,
    responses={200: _RESULT, 202: _ACCEPTED, **NOT_FOUND, **PROBLEMS},
)
async def result(id: ItemId, services: Shared) -> Response:
    """202 while it is `queued` or `running`."""
    found = await found_of(services, id)
    if isinstance(found, bytes):
        return Response(found, media_type="application/json")
    if found is None:
        raise BadInput(
            "no result and no job of this id: it was never sent, or is older than MOODQ_RESULT_TTL_S",
            code=ErrorCode.NOT_FOUND,
        )
    return JSONResponse({"id": id, "status": found}, 202)


@router.get(
    "/v1/results",
    summary="The results of many texts",
    response_model=None,
    responses={200: {"description": "By id; null where there is none yet"}, **PROBLEMS},
)
async def results(
    ids: Annotated[str, Query(description="ids, separated by commas", examples=["row-1,row-2"])],
    services: Shared,
) -> Response:
    """What is there now."""
    return Response(await results_of(services, ids.split(",")), media_type="application/json")


async def _body(request: Request, services: Services) -> dict[str, Any]:
    return await read_object(request, services.settings.gateway_max_body_kb * 1024)


async def _send(services: Services, request: Request, items: Sequence[RequestItem], queue: str) -> str:
    return await services.client.submit_items(
        items,
        queue=queue,
        traceparent=request.headers.get("traceparent"),
        request_id=request.scope[REQUEST_ID_SCOPE],
        on_full="raise",
    )


def _checked(
    services: Services, raws: Sequence[Any], key: str | None
) -> tuple[list[RequestItem], list[dict[str, Any]]]:
    items, rejected = [], []
    for index, raw in enumerate(raws):
        try:
            if isinstance(raw, dict) and raw.get("id") is None:
                raw = {name: value for name, value in raw.items() if name != "id"}
                if key is not None:
                    raw["id"] = f"{key}-{index}"
            items.append(services.client.item(raw))
        except BadInput as error:
            rejected.append({"index": index, "code": str(error.code), "detail": error.message})
    return items, rejected


def _accepted(id: str) -> JSONResponse:
    return JSONResponse({"id": id, "status": "queued"}, 202, {"Location": f"/v1/results/{id}"})


def _default_queue(services: Services, wanted: str) -> str:
    queues = services.settings.queues
    return wanted if wanted in queues else queues[0]
