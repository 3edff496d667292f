"""What is waiting, running and done, read from RQ's own keys. Only reads: RQ's ``count`` of a registry also
fails the jobs it takes for abandoned, which is no business of a producer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis
from redis.exceptions import NoPermissionError
from rq.job import Job
from rq.queue import Queue
from rq.suspension import is_suspended
from rq.utils import as_text, str_to_date
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

WORKER_PREFIX = "rq:worker:"


@dataclass(frozen=True, slots=True)
class QueueStats:
    """Jobs by state; ``oldest_age_s`` is the seconds since the queue's head was enqueued, None when empty.
    ``abandoned``: of the started, those whose worker has been silent for so long that RQ gives them up, and
    that nobody took over; None where this Redis user may not see it."""

    length: int
    oldest_age_s: float | None
    started: int
    finished: int
    failed: int
    workers: int
    scheduled: int
    deferred: int
    canceled: int
    abandoned: int | None


@dataclass(frozen=True, slots=True)
class Stats:
    """``states`` by worker: RQ's (``idle``, ``busy``, ``suspended``), or ``draining``. ``paused``: nothing is
    claimed until ``moodq resume``."""

    queues: dict[str, QueueStats]
    workers: tuple[str, ...]
    states: dict[str, str]
    paused: bool

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def read_stats(connection: Redis, queues: Sequence[str], *, only: bool = False) -> Stats:
    """The state of ``queues`` and, unless ``only`` those are asked for, of every other queue RQ knows."""
    prefix = Queue.redis_queue_namespace_prefix
    names = list(queues)
    if not only:
        known = {as_text(key).removeprefix(prefix) for key in connection.smembers(Queue.redis_queues_keys)}
        names += sorted(known - set(queues))
    workers = living_workers(connection)
    return Stats(
        {name: _queue_stats(connection, name) for name in names},
        tuple(workers),
        _states(connection, workers),
        bool(is_suspended(connection)),
    )


def _states(connection: Redis, workers: Sequence[str]) -> dict[str, str]:
    with connection.pipeline(transaction=False) as pipe:
        for name in workers:
            pipe.hmget(WORKER_PREFIX + name, ["state", "shutdown_requested_date"])
        found = pipe.execute(raise_on_error=False)
    states = {}
    for name, answer in zip(workers, found, strict=True):
        # An entry that is no worker's hash, or that this Redis user may not read, tells nothing.
        state, draining = (b"", None) if isinstance(answer, Exception) else answer
        states[name] = "draining" if draining else as_text(state or b"")
    return states


def _queue_stats(connection: Redis, name: str) -> QueueStats:
    queue = Queue(name, connection=connection)
    registries = {
        "started": queue.started_job_registry,
        "finished": queue.finished_job_registry,
        "failed": queue.failed_job_registry,
        "scheduled": queue.scheduled_job_registry,
        "deferred": queue.deferred_job_registry,
        "canceled": queue.canceled_job_registry,
    }
    with connection.pipeline(transaction=False) as pipe:
        pipe.llen(queue.key)
        pipe.lindex(queue.key, 0)
        for registry in registries.values():
            pipe.zcard(registry.key)
        length, head, *sizes = pipe.execute()
    return QueueStats(
        length=length,
        oldest_age_s=_age_s(connection, head),
        workers=len(alive(connection, WORKERS_BY_QUEUE_KEY % name)),
        abandoned=_abandoned(connection, queue.started_job_registry.key),
        **dict(zip(registries, sizes, strict=True)),
    )


def _abandoned(connection: Redis, registry: str) -> int | None:
    try:
        return int(connection.zcount(registry, "-inf", time.time()))
    except NoPermissionError:
        return None


def _age_s(connection: Redis, head: bytes | None) -> float | None:
    if not head:
        return None
    try:
        enqueued_at = connection.hget(Job.key_for(as_text(head)), "enqueued_at")
    except NoPermissionError:
        return None  # a Redis user that may not see texts
    if not enqueued_at:
        return None
    try:
        return max(0.0, time.time() - str_to_date(enqueued_at).timestamp())
    except ValueError:
        return None  # written by a stranger, in another form


def living_workers(connection: Redis) -> list[str]:
    """Names of all workers whose heartbeat lives."""
    return alive(connection, REDIS_WORKER_KEYS)


def alive(connection: Redis, registry: str) -> list[str]:
    """Names of the workers in ``registry`` whose own key has not expired."""
    keys = sorted(as_text(key) for key in connection.smembers(registry))
    with connection.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.exists(key)
        living = pipe.execute()
    return [key.removeprefix(WORKER_PREFIX) for key, lives in zip(keys, living, strict=True) if lives]
