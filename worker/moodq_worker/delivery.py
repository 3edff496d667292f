"""Results out: one result key and one ``done`` event per item, then the job in RQ's own registries.

Runs in its own thread and writes whatever is finished in one step. The result comes first: a worker that dies
between the two leaves a job that is started again and finds its items already done.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json
from redis.exceptions import RedisError

from moodq_config.answers import Answer
from moodq_config.contracts import ModelRef, Result, ResultStatus, Timings
from moodq_config.conversations import Routed, written
from moodq_config.errors import NEVER_RETRIED, TO_LOOK_AT, ErrorCode, MoodqError
from moodq_config.names import events_key
from moodq_worker.finishing import Finisher
from moodq_worker.items import Item, Job
from moodq_worker.job_log import JobLog
from moodq_worker.metrics import Metrics
from moodq_worker.result_cache import ResultCache
from moodq_worker.route_lists import RouteLists
from moodq_worker.rq_finish import WrittenResult
from moodq_worker.rq_worker import BatchWorker
from moodq_worker.tally import count_round

if TYPE_CHECKING:
    from moodq_worker.tracing import Tracing  # needs the extra `otel`

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Terms:
    """What every result says, and how long it is kept."""

    worker: str
    model: ModelRef
    result_ttl_s: int
    max_attempts: int
    max_events: int
    backoff_s: float = 0.0
    max_backoff_s: float = 0.0

    def backoff(self, attempt: int) -> float:
        """Seconds before attempt ``attempt`` + 1: doubled each time, and less by up to a half, so that jobs
        that failed together do not come back together."""
        longest = min(self.max_backoff_s, self.backoff_s * 2.0 ** min(attempt - 1, 30))
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class Delivery:
    """``deliver`` an item when its outcome is known; the rest happens in the thread."""

    def __init__(
        self,
        worker: BatchWorker,
        metrics: Metrics,
        terms: Terms,
        cache: ResultCache,
        routes: RouteLists,
        *,
        finished: Callable[[Job], None],
        job_log: JobLog,
        tracing: Tracing | None = None,
    ) -> None:
        self._worker = worker
        self._finisher = Finisher(worker)
        self._metrics = metrics
        self._terms = terms
        self._cache = cache
        self._routes = routes
        self._finished = finished
        self._job_log = job_log
        self._tracing = tracing
        self._items: list[Item] = []
        self._jobs: list[Job] = []
        self._events: list[tuple[Item, str, dict[str, Any]]] = []
        self._messages: list[Routed] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def deliver(self, items: Sequence[Item]) -> None:
        """Hand over items whose outcome is known. A job follows with the last of its items."""
        with self._wake:
            self._items += items
            self._wake.notify()

    def empty_job(self, job: Job) -> None:
        """Hand over a job of which nothing is left to do."""
        with self._wake:
            self._jobs.append(job)
            self._wake.notify()

    def publish(self, item: Item, event: str, data: dict[str, Any]) -> None:
        """Tell whoever follows ``item`` of its label or of new text of its reply, in the order of the calls.

        Best effort: the result holds all of it. Items of a job with several are not followed one by one, and
        a stream for each would cost more than the results.
        """
        if len(item.job.items) == 1:
            with self._wake:
                self._events.append((item, event, data))
                self._wake.notify()

    def route(self, item: Item) -> None:
        """Send ``item`` to the person that its route leads to, and tell whoever follows it. Best effort: the
        result brings it again."""
        if (message := item.message()) is not None:
            with self._wake:
                self._messages.append(message)
                self._wake.notify()
            self.publish(item, "route", {"route": message.route, "reply": message.reply})

    def close(self, timeout_s: float) -> bool:
        """Write what is left and stop; False when Redis did not take it in time."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not (self._items or self._jobs or self._events or self._messages or self._closing):
                    self._wake.wait()
                items, self._items = self._items, []
                jobs, self._jobs = self._jobs, []
                events, self._events = self._events, []
                messages, self._messages = self._messages, []
                if not items and not jobs and not events and not messages:
                    return
            self._write_events(events)
            self._write_messages(messages)
            if items or jobs:
                self._persist(items, jobs)

    def _persist(self, items: list[Item], jobs: list[Job]) -> None:
        ended = list(jobs)
        for item in items:
            item.job.open -= 1
            if item.job.open == 0:
                ended.append(item.job)
        finished_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        timings = [item.clock.timings() for item in items]
        results = [
            self._written(item, spent, finished_at)
            for item, spent in zip(items, timings, strict=True)
            if not item.told and not self._will_retry(item)
        ]
        values = [self._return_value(job) for job in ended]
        for job, value in zip(ended, values, strict=True):
            if value is not None and value["failed"]:
                self._split_off(job)
        well = [(job.claim, value) for job, value in zip(ended, values, strict=True) if value is not None]
        self._remember(items)  # first: who has seen a result and sends its text again meets the answer
        began = time.perf_counter()
        refused = self._finisher.finish(results, well)
        self._metrics.result_write.observe(time.perf_counter() - began)
        count_round(self._metrics, items, timings)
        outcomes = [
            "failed"
            if job.claim.execution.id in refused
            else "done"
            if value is not None
            else self._fail(job)
            for job, value in zip(ended, values, strict=True)
        ]
        self._job_log.ended(ended, outcomes)
        if self._tracing is not None:
            self._tracing.ended(items, ended, outcomes)
        for job, outcome in zip(ended, outcomes, strict=True):
            self._metrics.jobs.labels(job.claim.queue.name, outcome).inc()
            if outcome != "retried":
                self._metrics.attempts.labels(job.claim.queue.name).observe(job.claim.attempt)
            self._finished(job)
            job.items.clear()  # they refer to their job: without a cycle they are freed here and now

    def _remember(self, items: list[Item]) -> None:
        computed: list[tuple[bytes, Answer]] = [
            (item.cache_keys[task], answer)
            for item in items
            for task, answer in chain[tuple[str, Answer]](item.scores.items(), item.texts.items())
            if task in item.cache_keys and task not in item.cached and task not in item.made_by
        ]
        try:
            self._cache.store(computed)
        except RedisError as error:
            log.debug("answers not kept for the next time: %s", error)

    def _write_events(self, events: list[tuple[Item, str, dict[str, Any]]]) -> None:
        if not events:
            return
        try:
            with self._worker.connection.pipeline(transaction=False) as pipe:
                for item, event, data in events:
                    fields = {"event": event, "data": json.dumps(data, ensure_ascii=False)}
                    key = events_key(item.id)
                    pipe.xadd(key, fields, maxlen=self._terms.max_events, approximate=True)  # type: ignore[arg-type]
                    pipe.expire(key, self._terms.result_ttl_s)
                pipe.execute()
        except RedisError as error:
            log.warning("%d events not published: %s", len(events), error)

    def _write_messages(self, messages: list[Routed]) -> None:
        if not messages:
            return
        try:
            self._routes.push([(one.id, one.route, written(one)) for one in messages])
        except RedisError as error:
            log.warning("%d messages for people come with their results: %s", len(messages), error)

    def _written(self, item: Item, timings: Timings, finished_at: str) -> WrittenResult:
        failed = item.error is not None
        result = Result(
            id=item.id,
            status=ResultStatus.FAILED if failed else ResultStatus.DONE,
            results={} if failed else item.results,
            error=item.item_error,
            model=self._terms.model,
            timings_ms=timings,
            worker=self._terms.worker,
            attempt=item.job.claim.attempt,
            finished_at=finished_at,
            metadata=item.request.metadata if item.request else None,
            cached=None if failed else item.cached_as,
            truncated=None if failed else item.truncated,
            revisions=None if failed else item.revisions,
            made_by=None if failed else item.made_elsewhere,
            trace=item.trace_id,
            silenced=None if failed else item.silenced,
            route=None if failed or item.route is None else item.route.route,
        )
        turns = () if failed else tuple(item.turns(finished_at))
        return WrittenResult(
            item.id,
            to_json(result, exclude_none=True),
            item.job.claim,
            item.conversation if turns else None,
            turns,
            None if failed else item.message(),
        )

    def _will_retry(self, item: Item) -> bool:
        """Whether the job of this failed item is going to be started again, so that it has no result yet."""
        return (
            item.error is not None
            and not item.told
            and item.error.code not in NEVER_RETRIED
            and item.job.claim.attempt < self._terms.max_attempts
            and bool(item.job.claim.job.should_retry)
        )

    def _return_value(self, job: Job) -> dict[str, Any] | None:
        """What the job's own result says; None when the job failed or is to be started again. That items
        were cancelled is no failure."""
        errors = [item.error for item in job.items if item.error is not None]
        failed = any(error.code != ErrorCode.CANCELLED for error in errors)
        if failed and ((len(errors) == len(job.items) and not job.skipped) or self._retries(job)):
            return None
        codes = Counter(str(error.code) for error in errors)
        done = len(job.items) - len(errors) + job.skipped
        return {"done": done, "failed": len(errors), "codes": dict(codes)}

    def _split_off(self, job: Job) -> None:
        """Show what the model failed on in the failed registry by itself, though its job goes well. A bad
        input stands in its result alone: to run it again cannot help."""
        for item in job.items:
            error = item.error
            if error is not None and error.code in TO_LOOK_AT:
                self._finisher.split_off(job.claim, item, error)

    def _fail(self, job: Job) -> str:
        """End a job that did not go well; returns its outcome."""
        errors = [item.error for item in job.items if item.error is not None]
        errors.sort(key=lambda error: error.code in NEVER_RETRIED)  # first what a retry is for
        retry = self._retries(job)
        error = errors[0] if retry else _summary(errors)
        backoff_s = self._terms.backoff(job.claim.attempt)
        self._finisher.fail(job.claim, error, retry=retry, backoff_s=backoff_s)
        return "retried" if retry else "failed"

    def _retries(self, job: Job) -> bool:
        return any(self._will_retry(item) for item in job.items)


def _summary(errors: list[MoodqError]) -> MoodqError:
    first = errors[0]
    if len(errors) == 1:
        return first
    return type(first)(f"all {len(errors)} items failed; the first: {first.message}", code=first.code)
