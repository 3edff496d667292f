"""The end of jobs, written until Redis takes it; between ``delivery``, which says what, and ``rq_worker``.

A server that is away is waited for: dropping a finished result would cost the work again. What it refuses
for good would be tried for ever: the batch is written in halves until the job at fault is alone, and fails.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import RedisError

from moodq_config.contracts import ItemError, Result, ResultStatus
from moodq_config.errors import ErrorCode, MoodqError
from moodq_worker.connection import passing
from moodq_worker.items import Item
from moodq_worker.outage import Outage
from moodq_worker.rq_claim import Claim
from moodq_worker.rq_finish import WrittenResult
from moodq_worker.rq_worker import BatchWorker, NotWritten

log = logging.getLogger(__name__)

#: Tries to end a job that did not go well while the server answers, but does not take it: two minutes.
TRIES = 30

Ended = tuple[Claim, dict[str, Any]]


class Finisher:
    """Used from delivery's thread only."""

    def __init__(self, worker: BatchWorker) -> None:
        self._worker = worker
        self._outage = Outage("results wait")

    def finish(self, results: Sequence[WrittenResult], jobs: Sequence[Ended]) -> set[str]:
        """Write results and finish jobs. Returns the executions whose end Redis refused; they have failed."""
        try:
            self._until_taken(lambda: self._worker.finish(results, jobs))
            return set()
        except RedisError as error:
            claims = list(dict.fromkeys(one.claim.execution.id for one in results))
            claims += [one.execution.id for one, _ in jobs if one.execution.id not in claims]
            if len(claims) > 1:
                log.error("%d jobs' results were refused (%s); writing them in halves", len(claims), error)
                first = set(claims[: len(claims) // 2])
                return self._part(results, jobs, first, True) | self._part(results, jobs, first, False)
            return self._refused(results, jobs, error)

    def split_off(self, claim: Claim, item: Item, error: MoodqError) -> None:
        """Show a failed item in the failed registry by itself; best effort, its result tells the same."""
        try:
            self._until_taken(lambda: self._worker.split_off(claim, item, error))
        except RedisError as refusal:
            log.error("item %s is not in the failed registry: %s", item.id, refusal)

    def fail(self, claim: Claim, error: MoodqError, *, retry: bool, backoff_s: float = 0.0) -> None:
        """End a job that did not go well; one whose end is refused for good is left to its lease."""
        for _ in range(TRIES):
            try:
                self._until_taken(lambda: self._worker.fail(claim, error, retry=retry, backoff_s=backoff_s))
            except NotWritten as refusal:
                time.sleep(self._outage.failed(refusal))
            except RedisError:
                break
            else:
                return
        log.critical("job %s: Redis refuses its end; its lease runs out", claim.job.id)
        self._worker.abandon(claim)

    def _part(
        self, results: Sequence[WrittenResult], jobs: Sequence[Ended], chosen: set[str], inside: bool
    ) -> set[str]:
        return self.finish(
            [one for one in results if (one.claim.execution.id in chosen) == inside],
            [one for one in jobs if (one[0].execution.id in chosen) == inside],
        )

    def _refused(
        self, results: Sequence[WrittenResult], jobs: Sequence[Ended], error: RedisError
    ) -> set[str]:
        claim = results[0].claim if results else jobs[0][0]
        reason = MoodqError(f"Redis refused the result ({type(error).__name__}); see the worker's log")
        log.error("job %s: its result was refused for good, so it fails: %s", claim.job.id, error)
        try:
            self._until_taken(lambda: self._worker.finish([_failed(one, reason) for one in results], []))
        except RedisError as again:
            log.critical("job %s: the refusal cannot be told either: %s", claim.job.id, again)
        if jobs:
            self.fail(claim, reason, retry=False)
        return {claim.execution.id}

    def _until_taken(self, write: Callable[[], object]) -> None:
        """Raises ``RedisError`` that no later try will change."""
        while True:
            try:
                write()
            except RedisError as error:
                if not passing(error):
                    raise
                time.sleep(self._outage.failed(error))
            else:
                self._outage.over()
                return


def _failed(one: WrittenResult, reason: MoodqError) -> WrittenResult:
    result = Result.model_validate_json(one.body).model_copy(
        update={
            "status": ResultStatus.FAILED,
            "results": {},
            "error": ItemError(code=str(ErrorCode.INTERNAL), message=reason.message),
            "cached": None,
            "truncated": None,
        }
    )
    return WrittenResult(one.id, result.model_dump_json(exclude_none=True).encode(), one.claim)
