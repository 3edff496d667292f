"""Results out: one result key and one ``done`` event per item, then the job in RQ's own registries.

Runs in its own thread and writes whatever is finished in one pipeline. The result comes first: a worker that
dies between the two leaves a job that is started again and finds its items already done.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis.client import Pipeline
from redis.exceptions import RedisError

from moodq_config.contracts import ModelRef, Result, ResultStatus
from moodq_config.errors import NEVER_RETRIED, MoodqError
from moodq_config.names import events_key, result_key
from moodq_worker.items import Item, Job
from moodq_worker.metrics import Metrics
from moodq_worker.rq_worker import BatchWorker

log = logging.getLogger(__name__)

#: Entries an item's event stream may hold: its labels, its tokens, its end.
EVENTS_MAXLEN = 2_048
RETRY_WAIT_S = 0.5


@dataclass(frozen=True, slots=True)
class Terms:
    """What every result says, and how long it is kept."""

    worker: str
    model: ModelRef
    result_ttl_s: int
    max_attempts: int


class Delivery:
    """``deliver`` an item when its outcome is known; the rest happens in the thread."""

    def __init__(
        self, worker: BatchWorker, metrics: Metrics, terms: Terms, *, finished: Callable[[Job], None]
    ) -> None:
        self._worker = worker
        self._metrics = metrics
        self._terms = terms
        self._finished = finished
        self._items: list[Item] = []
        self._jobs: list[Job] = []
        self._events: list[tuple[Item, str, dict[str, Any]]] = []
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="delivery", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def deliver(self, item: Item) -> None:
        """Hand over an item whose outcome is known. Its job follows when it was the last one."""
        with self._wake:
            self._items.append(item)
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
                while not (self._items or self._jobs or self._events or self._closing):
                    self._wake.wait()
                items, self._items = self._items, []
                jobs, self._jobs = self._jobs, []
                events, self._events = self._events, []
                if not items and not jobs and not events:
                    return
            self._write_events(events)
            if items or jobs:
                self._persist(items, jobs)

    def _persist(self, items: list[Item], jobs: list[Job]) -> None:
        """Write until Redis takes it: dropping a finished result would cost the work again."""
        while True:
            try:
                began = time.perf_counter()
                self._write(items)
                self._metrics.result_write.observe(time.perf_counter() - began)
                break
            except RedisError as error:
                log.warning("results not written: %s; trying again in %.1f s", error, RETRY_WAIT_S)
                time.sleep(RETRY_WAIT_S)
        ended = list(jobs)
        for item in items:
            self._count(item)
            item.job.open -= 1
            if item.job.open == 0:
                ended.append(item.job)
        for job in ended:
            self._end(job)

    def _write_events(self, events: list[tuple[Item, str, dict[str, Any]]]) -> None:
        if not events:
            return
        try:
            with self._worker.connection.pipeline(transaction=False) as pipe:
                for item, event, data in events:
                    fields = {"event": event, "data": json.dumps(data, ensure_ascii=False)}
                    key = events_key(item.id)
                    pipe.xadd(key, fields, maxlen=EVENTS_MAXLEN, approximate=True)  # type: ignore[arg-type]
                    pipe.expire(key, self._terms.result_ttl_s)
                pipe.execute()
        except RedisError as error:
            log.warning("%d events not published: %s", len(events), error)

    def _write(self, items: list[Item]) -> None:
        written = [item for item in items if not self._will_retry(item)]
        if not written:
            return
        with self._worker.connection.pipeline(transaction=True) as pipe:
            for item in written:
                self._write_one(pipe, item)
            pipe.execute()

    def _write_one(self, pipe: Pipeline, item: Item) -> None:
        body = self._result(item).model_dump_json(exclude_none=True)
        ttl = self._terms.result_ttl_s
        events = events_key(item.id)
        pipe.set(result_key(item.id), body, ex=ttl)
        pipe.xadd(events, {"event": "done", "data": body}, maxlen=EVENTS_MAXLEN, approximate=True)
        pipe.expire(events, ttl)

    def _result(self, item: Item) -> Result:
        failed = item.error is not None
        return Result(
            id=item.id,
            status=ResultStatus.FAILED if failed else ResultStatus.DONE,
            results={} if failed else dict(item.results),
            error=item.item_error,
            model=self._terms.model,
            timings_ms=item.clock.timings(),
            worker=self._terms.worker,
            attempt=item.job.claim.attempt,
            finished_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            metadata=item.request.metadata if item.request else None,
        )

    def _will_retry(self, item: Item) -> bool:
        """Whether the job of this failed item is going to be started again, so that it has no result yet."""
        return (
            item.error is not None
            and item.error.code not in NEVER_RETRIED
            and item.job.claim.attempt < self._terms.max_attempts
            and bool(item.job.claim.job.should_retry)
        )

    def _end(self, job: Job) -> None:
        while True:
            try:
                outcome = self._finish(job)
                break
            except RedisError as error:
                log.warning("job %s not finished: %s; trying again in %.1f s", job.id, error, RETRY_WAIT_S)
                time.sleep(RETRY_WAIT_S)
        self._metrics.jobs.labels(job.claim.queue.name, outcome).inc()
        self._finished(job)

    def _finish(self, job: Job) -> str:
        errors = [item.error for item in job.items if item.error is not None]
        if any(self._will_retry(item) for item in job.items):
            self._worker.fail(job.claim, errors[0], retry=True)
            return "retried"
        if errors and len(errors) == len(job.items) and not job.skipped:
            self._worker.fail(job.claim, _summary(errors), retry=False)
            return "failed"
        counts = Counter(str(error.code) for error in errors)
        done = len(job.items) - len(errors) + job.skipped
        self._worker.succeed(job.claim, {"done": done, "failed": len(errors), "codes": dict(counts)})
        return "done"

    def _count(self, item: Item) -> None:
        metrics, clock = self._metrics, item.clock
        outcome, code = ("failed", str(item.error.code)) if item.error else ("done", "")
        timings = clock.timings()
        tasks = list(item.results) or ["none"]
        for task in item.request.tasks if item.request and item.error is None else tasks:
            metrics.items.labels(task, outcome, code).inc()
            metrics.e2e_latency.labels(task).observe(timings.total / 1000)
            metrics.queue_time.labels(task).observe(timings.queue / 1000)
            metrics.batch_wait.labels(task).observe(timings.batch / 1000)
        for task, scores in item.scores.items():
            metrics.labels.labels(task, scores.label).inc()


def _summary(errors: list[MoodqError]) -> MoodqError:
    first = errors[0]
    if len(errors) == 1:
        return first
    return type(first)(f"all {len(errors)} items failed; the first: {first.message}", code=first.code)
