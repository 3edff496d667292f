"""One reading of everything the exporter tells. Redis may be away: the connection is made when it is back."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from redis import Redis

from moodq_config.memory import MIB
from moodq_config.settings import Settings, server_url
from moodq_config.worker_info import WorkerInfo
from moodq_producer.connection import close, connect, redis_errors
from moodq_producer.stats import Stats, living_workers, read_stats
from moodq_producer.workers import read_workers

#: Queues told of at most: anybody who may enqueue may invent names, and each costs a dozen series.
MOST_QUEUES = 200


@dataclass(frozen=True, slots=True)
class Reading:
    """``left_out``: queues beyond ``MOST_QUEUES``. ``seconds``: what the reading took."""

    stats: Stats
    workers: dict[str, WorkerInfo]
    used_bytes: int
    left_out: int
    seconds: float

    def job_cost_s(self, queue: str) -> float | None:
        """Seconds of one worker for a job: the mean over the workers that have measured it."""
        costs = [one.job_cost_s[queue] for one in self.workers.values() if queue in one.job_cost_s]
        return fmean(costs) if costs else None


class Reader:
    """Any thread; one reading at a time, since they are all the same."""

    def __init__(self, settings: Settings, only: Sequence[str] = ()) -> None:
        self.settings = settings
        self._only = only
        self._lock = threading.Lock()
        self._connection: Redis | None = None

    def read(self) -> Reading:
        """Raises ``Unavailable`` when Redis does not answer."""
        with self._lock, redis_errors(server_url(self.settings)):
            began = time.perf_counter()
            connection = self._connected()
            known = read_stats(connection, self._only or self.settings.queues, only=bool(self._only))
            kept = dict(list(known.queues.items())[:MOST_QUEUES])
            stats = Stats(kept, known.workers, known.states, known.paused)
            workers = read_workers(connection, stats.workers)
            used = int(connection.info("memory")["used_memory"])
            spent = time.perf_counter() - began
            return Reading(stats, workers, used, len(known.queues) - len(kept), spent)

    def read_workers(self) -> dict[str, WorkerInfo]:
        """The same of the workers alone. Raises ``Unavailable``."""
        with self._lock, redis_errors(server_url(self.settings)):
            connection = self._connected()
            return read_workers(connection, living_workers(connection))

    def close(self) -> None:
        if self._connection is not None:
            close(self._connection)

    def _connected(self) -> Redis:
        if self._connection is None:
            self._connection = connect(self.settings)
        return self._connection

    def limit_bytes(self) -> int:
        return self.settings.max_redis_mb * MIB
