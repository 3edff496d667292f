"""One log line a job, when it has ended: what it was, what became of it and where its time went.

Called by ``delivery``. No text is in it; ``MOODQ_LOG_JOBS`` says of which jobs a line is written.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from moodq_config.contracts import ModelRef
from moodq_config.logs import EXTRA, JobsLogged, written_together
from moodq_worker.items import Clock, Job

log = logging.getLogger(__name__)

#: What ECS knows as an outcome; a job that is started again has none yet.
_ECS_OUTCOMES = {"done": "success", "failed": "failure"}


class JobLog:
    """Lines of jobs ``which`` ended. Used from delivery's thread only."""

    def __init__(self, which: JobsLogged, *, worker: str, model: ModelRef) -> None:
        self._wanted = which != "none" and log.isEnabledFor(logging.INFO)
        self._done_too = which == "all"
        self._always = {
            "service.node.name": worker,
            "event.action": "job",
            "moodq.model.id": model.id,
            "moodq.model.revision": model.revision,
            "moodq.model.precision": model.precision,
        }

    def ended(self, jobs: Sequence[Job], outcomes: Sequence[str]) -> None:
        """These have just ended; an outcome is ``done``, ``failed`` or ``retried``."""
        if not self._wanted or not jobs:
            return
        now = time.monotonic()
        with written_together():
            for job, outcome in zip(jobs, outcomes, strict=True):
                if self._done_too or outcome != "done":
                    self._tell(job, outcome, now)

    def _tell(self, job: Job, outcome: str, now: float) -> None:
        errors = [str(item.error.code) for item in job.items if item.error is not None]
        timings = stage_ms([item.clock for item in job.items], now)
        claim, count = job.claim, len(job.items) + job.skipped
        fields: dict[str, Any] = self._always | {
            "event.outcome": _ECS_OUTCOMES.get(outcome, "unknown"),
            "event.duration": int(timings["total"] * 1_000_000),
            "moodq.job.id": job.id,
            "moodq.job.queue": claim.queue.name,
            "moodq.job.outcome": outcome,
            "moodq.job.attempt": claim.attempt,
            "moodq.job.items": count,
            "moodq.timings_ms": timings,
        }
        if errors:
            fields["moodq.job.codes"] = Counter(errors)
        if job.trace_id is not None:
            fields["trace.id"] = job.trace_id
        if claim.job.context.request_id is not None:
            fields["http.request.id"] = claim.job.context.request_id
        items, total = "1 item" if count == 1 else f"{count} items", timings["total"]
        said = f"job {job.id} {outcome}: {items} in {total:.1f} ms, attempt {claim.attempt}"
        # Looking for the line of code that says it, as log.info does, would cost a fifth of all this.
        log.handle(log.makeRecord(log.name, logging.INFO, __file__, 0, said, (), None, extra={EXTRA: fields}))


def stage_ms(clocks: list[Clock], now: float) -> dict[str, float]:
    """Milliseconds of each stage, as in a result; of several items, the longest that any was in it."""
    found = {"queue": 0.0, "batch": 0.0, "prefill": 0.0, "decode": 0.0, "total": 0.0}
    if clocks:
        first = clocks[0]
        waited = first.claimed_at - first.enqueued_at
        found["queue"] = waited
        found["total"] = waited + now - first.claimed
        found["batch"] = max([(one.started or now) - one.claimed for one in clocks])
        found["prefill"] = max([one.prefill_s for one in clocks])
        found["decode"] = max([one.decode_s for one in clocks])
    return {name: int(seconds * 1e6) / 1000 for name, seconds in found.items()}
