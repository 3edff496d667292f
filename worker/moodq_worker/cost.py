"""What a job costs here: seconds of this worker for each job of a queue, measured while it works.

With the length of a queue it tells the backlog in seconds, which is what people wait for and what an
autoscaler should look at: a thousand jobs may be a second's work or a day's. The loop tells when jobs come
and go, the stages what they ran in the engine.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from prometheus_client import Counter as Metric

#: Seconds of work after which a measurement counts half.
HALF_LIFE_S = 30.0
#: Jobs, discounted, below which nothing is said of a queue.
LEAST_JOBS = 0.01


class CostMeter:
    """Any thread. ``engine_seconds`` gets the time in the engine by stage."""

    def __init__(self, engine_seconds: Metric, clock: Callable[[], float] = time.monotonic) -> None:
        self._stages = {stage: engine_seconds.labels(stage) for stage in ("prefill", "decode")}
        self._clock = clock
        self._lock = threading.Lock()
        self._in_hand = 0
        self._since = 0.0
        self._busy_s = self._new_busy_s = 0.0
        self._engine_s: defaultdict[str, float] = defaultdict(float)
        self._new_engine_s: defaultdict[str, float] = defaultdict(float)
        self._jobs: defaultdict[str, float] = defaultdict(float)
        self._new_jobs: Counter[str] = Counter()
        self._measured_s = 0.0  # in the engine, since the start; the engine's thread only

    def took(self) -> None:
        """A job came."""
        with self._lock:
            if self._in_hand == 0:
                self._since = self._clock()
            self._in_hand += 1

    def ended(self, queue: str) -> None:
        """A job of ``queue`` is finished."""
        with self._lock:
            self._in_hand -= 1
            self._new_jobs[queue] += 1
            if self._in_hand == 0:
                self._new_busy_s += self._clock() - self._since

    @contextmanager
    def engine(self, stage: str, texts: Mapping[str, int]) -> Iterator[None]:
        """Within, the engine works for so many texts of each queue. What runs between the layers of a pass
        (``preemption``) is measured by itself and taken out of the pass."""
        began, before = self._clock(), self._measured_s
        try:
            yield
        finally:
            spent = max(0.0, self._clock() - began - (self._measured_s - before))
            self._measured_s += spent
            self._stages[stage].inc(spent)
            count = sum(texts.values())
            with self._lock:
                for queue, some in texts.items():
                    self._new_engine_s[queue] += spent * some / count

    def seconds_per_job(self) -> dict[str, float]:
        """By queue, the recent past counting most: the time with anything in hand, divided among queues as
        the engine's time was, by the jobs finished. Queues of which none was seen are missing."""
        with self._lock:
            self._roll()
            engine_s, jobs = sum(self._engine_s.values()), sum(self._jobs.values())
            return {
                queue: self._busy_s * (self._engine_s[queue] / engine_s if engine_s else count / jobs) / count
                for queue, count in self._jobs.items()
                if count >= LEAST_JOBS
            }

    def _roll(self) -> None:
        if self._in_hand:
            now = self._clock()
            self._new_busy_s += now - self._since
            self._since = now
        if not self._new_busy_s:
            return
        keep = 0.5 ** (self._new_busy_s / HALF_LIFE_S)
        self._busy_s = self._busy_s * keep + self._new_busy_s
        for old, new in ((self._engine_s, self._new_engine_s), (self._jobs, self._new_jobs)):
            for queue in old.keys() | new.keys():
                old[queue] = old[queue] * keep + new[queue]
            new.clear()
        self._new_busy_s = 0.0
