"""Queue depth and age and Redis's memory, read when ``/metrics`` is scraped rather than on a timer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis import Redis
from redis.exceptions import RedisError
from rq.job import Job
from rq.queue import Queue
from rq.utils import as_text, str_to_date


class QueueCollector(Collector):
    """Depth, age and backlog by queue, and the memory of Redis beside its limit; absent while Redis is.

    ``seconds_per_job`` by queue: what a job costs this worker. Every worker tells the same depths; they are
    not to be added up.
    """

    def __init__(
        self,
        connection: Redis,
        queues: Sequence[str],
        max_bytes: int,
        seconds_per_job: Callable[[], Mapping[str, float]],
    ) -> None:
        self._connection = connection
        self._max_bytes = max_bytes
        self._seconds_per_job = seconds_per_job
        self._queues = [Queue(name, connection=connection) for name in queues]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        depth = GaugeMetricFamily("moodq_queue_depth", "Jobs waiting in the queue", labels=["queue"])
        age = GaugeMetricFamily(
            "moodq_queue_oldest_age_seconds", "Age of the job at the queue's head", labels=["queue"]
        )
        backlog = GaugeMetricFamily(
            "moodq_queue_backlog_seconds", "Depth by the measured cost of a job", labels=["queue"]
        )
        cost = GaugeMetricFamily("moodq_job_cost_seconds", "This worker's time a job", labels=["queue"])
        costs = self._seconds_per_job()
        for name, seconds in costs.items():
            cost.add_metric([name], seconds)
        yield cost
        used = GaugeMetricFamily("moodq_redis_used_bytes", "Memory Redis uses")
        limit = GaugeMetricFamily("moodq_redis_limit_bytes", "Memory Redis may use, MOODQ_MAX_REDIS_MB")
        try:
            used.add_metric([], self._used_bytes())
            limit.add_metric([], self._max_bytes)
            for queue in self._queues:
                length, head = self._length_and_age(queue)
                depth.add_metric([queue.name], length)
                age.add_metric([queue.name], head)
                if queue.name in costs or not length:
                    backlog.add_metric([queue.name], length * costs.get(queue.name, 0.0))
        except RedisError:
            return
        yield depth
        yield age
        yield backlog
        yield used
        yield limit

    def _used_bytes(self) -> float:
        return float(self._connection.info("memory")["used_memory"])

    def _length_and_age(self, queue: Queue) -> tuple[int, float]:
        with self._connection.pipeline(transaction=False) as pipe:
            pipe.llen(queue.key)
            pipe.lindex(queue.key, 0)
            length, head = pipe.execute()
        if head is None:
            return int(length), 0.0
        enqueued = self._connection.hget(Job.key_for(as_text(head)), "enqueued_at")
        try:
            return int(length), max(0.0, time.time() - str_to_date(enqueued).timestamp()) if enqueued else 0.0
        except ValueError:
            return int(length), 0.0
