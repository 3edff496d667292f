"""Failed items and jobs, as RQ's failed registry shows them. Beside ``rq_worker``, which calls it.

An item that failed in a job of several, while its neighbours are done, is put into the registry as a job of
its own: its neighbours' job finishes, and ``rq requeue`` of the culprit runs the culprit alone.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

from redis.client import Pipeline
from redis.exceptions import WatchError
from rq.job import Job, JobStatus
from rq.utils import as_text, now

from moodq_config.contracts import CONTRACT_VERSION, item_id
from moodq_config.errors import MoodqError
from moodq_config.names import FAILURE_FIELD, JOB_FUNCTION, job_id
from moodq_worker.rq_claim import Claim
from moodq_worker.rq_job import MoodqJob

if TYPE_CHECKING:
    from moodq_worker.items import Item

#: An earlier job of the same id in one of these states has ended and makes way.
ENDED = {JobStatus.FINISHED, JobStatus.FAILED, JobStatus.STOPPED, JobStatus.CANCELED}
NO_TIMEOUT = -1


def note_failure(pipeline: Pipeline, job: Job, error: MoodqError, attempts: int) -> None:
    """Write what programs read of a failure; RQ's own fields tell people the same."""
    told = {"code": str(error.code), "message": error.message, "attempts": attempts}
    pipeline.hset(job.key, FAILURE_FIELD, json.dumps(told, ensure_ascii=False))


def split_off(worker: Any, claim: Claim, item: Item, error: MoodqError, failure_ttl_s: int) -> bool:
    """Put ``item`` of ``claim``'s job into the failed registry as a job of its own; False when another job
    that carries it alone is under way. Done again, it changes nothing."""
    mine = claim.job
    job = MoodqJob.create(
        JOB_FUNCTION,
        args=[{"v": CONTRACT_VERSION, "items": [_as_sent(claim, item)]}],
        connection=mine.connection,
        id=job_id([item.id]),
        origin=claim.queue.name,
        status=JobStatus.FAILED,
        description=f"moodq: 1 item, from job {mine.id}",
        timeout=NO_TIMEOUT,
        result_ttl=mine.result_ttl,
        failure_ttl=mine.failure_ttl if mine.failure_ttl is not None else failure_ttl_s,
    )
    job.enqueued_at, job.started_at, job.ended_at = mine.enqueued_at, mine.started_at, now()
    job.worker_name = worker.name
    with mine.connection.pipeline() as pipeline:
        while True:
            try:
                cast("Any", pipeline).watch(job.key)
                status = as_text(cast("bytes", pipeline.hget(job.key, "status") or b""))
                if status and status not in ENDED:
                    return False
                pipeline.multi()
                pipeline.delete(job.key)
                job.finished_job_registry.remove(job, pipeline=pipeline)
                job._handle_failure(str(error), pipeline=pipeline, worker_name=worker.name)
                note_failure(pipeline, job, error, claim.attempt)
                pipeline.execute()
            except WatchError:
                continue
            else:
                return True


def _as_sent(claim: Claim, item: Item) -> dict[str, Any]:
    """The item as it came, not as it was cut."""
    for number, raw in enumerate(claim.job.args[0]["items"]):
        if isinstance(raw, dict) and item.id == (item_id(raw) or f"{claim.job.id}-{number}"):
            return {**raw, "id": item.id}
    return item.request.model_dump(exclude_none=True) if item.request else {"id": item.id}
