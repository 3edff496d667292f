"""What there is of an item: its result, or where it stands. Read from Redis as docs/protocol.md has it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import Path
from fastapi.responses import Response
from rq.job import Job

from moodq_config.contracts import ID_PATTERN, Result
from moodq_config.errors import BadInput, ErrorCode
from moodq_config.names import job_id, queued_key, result_key
from moodq_config.settings import server_url
from moodq_producer.connection import redis_errors
from moodq_producer.gateway.services import Services
from moodq_producer.waiting import parse_result

ItemId = Annotated[
    str, Path(pattern=ID_PATTERN, description="the item's id", examples=["order-17"], max_length=128)
]

#: RQ's states of a job, as a caller is told them; a job in any other state has ended.
_STATES: dict[bytes, Literal["queued", "running"]] = {
    b"created": "queued",
    b"queued": "queued",
    b"deferred": "queued",
    b"scheduled": "queued",
    b"started": "running",
}


def document(result: Result) -> Response:
    """A result as it stands in Redis."""
    return Response(result.model_dump_json(exclude_none=True), media_type="application/json")


async def found_of(services: Services, id: str) -> bytes | Literal["queued", "running"] | None:
    """The stored result of an item, or where it stands; None when nothing is known of it. Raises
    ``Unavailable``, and ``BadInput`` (wrong_version)."""
    redis = await services.client.connection()
    own_job = Job.key_for(job_id([id], services.settings.id_prefix))
    with redis_errors(server_url(services.settings)):
        async with redis.pipeline(transaction=True) as pipe:
            pipe.get(result_key(id))
            pipe.hget(own_job, "status")
            pipe.get(queued_key(id))
            value, status, in_job = await pipe.execute()
        if value is None and status is None and in_job is not None:
            status = await redis.hget(Job.key_for(in_job.decode()), "status")
            value = await redis.get(result_key(id))  # it may have come in between
    if value is not None:
        parse_result(value, id)
        return bytes(value)
    return _STATES.get(status)


async def results_of(services: Services, ids: Sequence[str]) -> bytes:
    """JSON of the stored results by id, null where there is none. Raises ``Unavailable``, ``BadInput``."""
    most = services.settings.max_items_per_job
    if len(ids) > most:
        raise BadInput(
            f"parameter 'ids' has {len(ids)} ids, the limit is {most}; ask several times",
            code=ErrorCode.TOO_MANY_ITEMS,
            field="ids",
            limit=most,
        )
    for number, id in enumerate(ids):
        if not re.fullmatch(ID_PATTERN, id):
            raise BadInput(f"parameter 'ids': number {number} is not an id", field="ids")
    redis = await services.client.connection()
    with redis_errors(server_url(services.settings)):
        values: list[Any] = await redis.mget([result_key(id) for id in ids])
    parts = []
    for id, value in dict(zip(ids, values, strict=True)).items():
        if value is not None:
            parse_result(value, id)
        parts.append(json.dumps(id).encode() + b":" + (value or b"null"))
    return b'{"results":{' + b",".join(parts) + b"}}"


async def remember(services: Services, ids: Sequence[str]) -> None:
    """Note which job the items of a batch are going to be in, so that they can be asked after. Raises
    ``Unavailable``."""
    job = job_id(ids, services.settings.id_prefix)
    if job in ids:
        return
    redis = await services.client.connection()
    with redis_errors(server_url(services.settings)):
        async with redis.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.set(queued_key(id), job, ex=services.settings.max_ttl_s)
            await pipe.execute()
