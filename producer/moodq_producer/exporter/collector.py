"""A reading as Prometheus metrics. Names that workers have too mean the same; see ``docs/metrics.md``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from moodq_config.errors import Unavailable
from moodq_producer.exporter.reading import Reader, Reading

STATES = ("idle", "busy", "suspended", "draining")
#: RQ's registries, and the queue itself.
STATUSES = ("queued", "started", "scheduled", "deferred", "finished", "failed", "canceled")


class QueueWideCollector(Collector):
    """Reads when scraped. While Redis is away it tells nothing but that."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def collect(self) -> Iterator[Metric]:
        try:
            reading = self._reader.read()
        except Unavailable:
            yield _one("moodq_redis_up", "1: Redis answers", 0)
            return
        yield _one("moodq_redis_up", "1: Redis answers", 1)
        yield _one("moodq_redis_used_bytes", "Memory Redis uses", reading.used_bytes)
        limit = self._reader.limit_bytes()
        yield _one("moodq_redis_limit_bytes", "Memory Redis may use, MOODQ_MAX_REDIS_MB", limit)
        yield _one("moodq_paused", "1: nothing is claimed until `moodq resume`", reading.stats.paused)
        length = self._reader.settings.max_queue_length
        yield _one("moodq_queue_limit_jobs", "Length at which producers get queue_full", length)
        yield _one("moodq_exporter_queues_left_out", "Queues beyond what is told of", reading.left_out)
        yield _one("moodq_exporter_read_seconds", "What this reading took", reading.seconds)
        yield _workers(reading)
        yield from _queues(reading)


def _workers(reading: Reading) -> Metric:
    family = GaugeMetricFamily("moodq_workers", "Living workers by state", labels=["state"])
    states = Counter(reading.stats.states.values())
    for state in STATES:
        family.add_metric([state], states.pop(state, 0))
    family.add_metric(["other"], states.total())
    return family


def _queues(reading: Reading) -> Iterator[Metric]:
    by_queue = ["queue"]
    depth = GaugeMetricFamily("moodq_queue_depth", "Jobs waiting in the queue", labels=by_queue)
    age = GaugeMetricFamily(
        "moodq_queue_oldest_age_seconds", "Age of the job at the queue's head", labels=by_queue
    )
    cost = GaugeMetricFamily("moodq_job_cost_seconds", "One worker's time a job", labels=by_queue)
    backlog = GaugeMetricFamily(
        "moodq_queue_backlog_seconds", "Depth by the measured cost of a job", labels=by_queue
    )
    jobs = GaugeMetricFamily("moodq_queue_jobs", "Jobs by RQ's status", labels=["queue", "status"])
    ended = GaugeMetricFamily(
        "moodq_queue_abandoned_jobs", "Started jobs of dead workers, not taken over", labels=by_queue
    )
    workers = GaugeMetricFamily("moodq_queue_workers", "Living workers of the queue", labels=by_queue)
    for name, queue in reading.stats.queues.items():
        depth.add_metric([name], queue.length)
        if queue.oldest_age_s is not None or not queue.length:
            age.add_metric([name], queue.oldest_age_s or 0.0)
        seconds = reading.job_cost_s(name)
        if seconds is not None:
            cost.add_metric([name], seconds)
        if seconds is not None or not queue.length:
            backlog.add_metric([name], queue.length * (seconds or 0.0))
        for status in STATUSES:
            jobs.add_metric([name, status], queue.length if status == "queued" else getattr(queue, status))
        if queue.abandoned is not None:
            ended.add_metric([name], queue.abandoned)
        workers.add_metric([name], queue.workers)
    yield from (depth, age, cost, backlog, jobs, ended, workers)


def _one(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))
