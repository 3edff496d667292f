"""This worker's sign in Redis (``moodq_config.worker_info``): where its metrics are, what it has done so far.

Written by a thread of its own, so that also a worker whose engine is stuck is found and looked at. Best
effort: nothing depends on it but what people see.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import psutil  # type: ignore[import-untyped]
from redis import Redis
from redis.exceptions import RedisError

from moodq_config.contracts import ModelRef
from moodq_config.names import worker_info_key
from moodq_config.settings import Settings
from moodq_config.worker_info import EVERY_S, TTL_S, Latencies, Outcomes, WorkerInfo
from moodq_worker.metrics import Metrics
from moodq_worker.rq_worker import BatchWorker

log = logging.getLogger(__name__)

#: Hosts that mean "wherever somebody comes from".
ANY_HOST = ("", "0.0.0.0", "::", "[::]")  # noqa: S104 - compared with, not bound


class Announcer:
    """``describe`` gives what is written. Raises nothing: Redis may be away."""

    def __init__(self, connection: Redis, name: str, describe: Callable[[], WorkerInfo]) -> None:
        self._connection = connection
        self._key = worker_info_key(name)
        self._describe = describe
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="announcer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Write no more, and take back what was written."""
        self._stop.set()
        self._thread.join(timeout=EVERY_S)
        try:
            self._connection.delete(self._key)
        except RedisError as error:
            log.debug("this worker's entry stays until it expires: %s", error)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                told = self._describe().model_dump_json(exclude_none=True)
                self._connection.set(self._key, told, ex=TTL_S)
            except RedisError as error:
                log.debug("this worker's entry was not written: %s", error)
            self._stop.wait(EVERY_S)


class Describer:
    """Reads the metrics as they are at the time. Called by one thread."""

    def __init__(
        self, metrics: Metrics, *, address: str | None, queues: Sequence[str], model: ModelRef
    ) -> None:
        self._metrics = metrics
        self._process = psutil.Process()
        self._fixed: dict[str, Any] = {
            "started_at": time.time(),
            "metrics": address,
            "queues": tuple(queues),
            "model": model,
        }

    def __call__(self) -> WorkerInfo:
        metrics = self._metrics
        items: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for labels, value in _samples(metrics.items):
            if not value:
                continue
            of_task = items[labels["task"]]
            of_task[labels["outcome"]] = of_task.get(labels["outcome"], 0) + int(value)
        given: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for labels, value in _samples(metrics.labels):
            given[labels["task"]][labels["label"]] = int(value)
        by_queue: dict[str, list[int]] = {}
        for (queue, _), counts in metrics.e2e_latency.read().items():
            sofar = by_queue.get(queue)
            by_queue[queue] = counts if sofar is None else [a + b for a, b in zip(sofar, counts, strict=True)]
        return WorkerInfo(
            at=time.time(),
            waiting=int(_samples(metrics.waiting)[0][1]),
            running=int(_samples(metrics.running)[0][1]),
            rss_bytes=self._process.memory_info().rss,
            engine_s=sum(value for _, value in _samples(metrics.engine_seconds)),
            job_cost_s=metrics.cost.seconds_per_job(),
            items={task: Outcomes(**counts) for task, counts in items.items()},
            labels=given,
            latencies=Latencies(
                bounds=metrics.e2e_latency.buckets,
                queues={queue: tuple(counts) for queue, counts in by_queue.items()},
            ),
            **self._fixed,
        )


def announcer_of(
    settings: Settings, worker: BatchWorker, metrics: Metrics, *, port: int, model: ModelRef
) -> Announcer:
    """``port``: where this process serves its metrics."""
    address = metrics_address(
        settings.metrics_host,
        port,
        chosen=settings.metrics_address,
        seen_by_redis=str(worker.ip_address),
    )
    describe = Describer(metrics, address=address, queues=settings.queues, model=model)
    return Announcer(worker.connection, worker.name, describe)


def metrics_address(host: str, port: int, *, chosen: str | None, seen_by_redis: str) -> str:
    """Where Prometheus finds this worker: ``chosen`` (a port is added if it has none), else ``host``; if that
    is every address, the one that Redis sees, since who reaches Redis is most likely reached from there."""
    if chosen:
        return chosen if chosen.rpartition(":")[2].isdigit() else f"{chosen}:{port}"
    if host in ANY_HOST:
        seen = seen_by_redis.rpartition(":")[0]
        host = seen if seen and not seen.startswith("/") else socket.gethostname()
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def _samples(metric: Any) -> list[tuple[dict[str, str], float]]:
    """What a counter or gauge says, by its labels."""
    [family] = metric.collect()
    return [(one.labels, one.value) for one in family.samples if not one.name.endswith("_created")]
