"""Pausing and draining workers, by RQ's own means: its ``suspended`` key, which stops all claiming, and its
``shutdown`` command, which every worker listens to."""

from __future__ import annotations

import time
from collections.abc import Sequence

from redis import Redis
from rq.command import send_shutdown_command
from rq.suspension import resume as rq_resume
from rq.suspension import suspend
from rq.worker_registration import REDIS_WORKER_KEYS, WORKERS_BY_QUEUE_KEY

from moodq_producer.stats import WORKER_PREFIX, alive

#: Seconds between two looks at workers that drain.
LOOK_EVERY_S = 0.2


def pause(connection: Redis, seconds: int | None) -> None:
    """No worker claims anything until ``resume``, or for ``seconds``; what is in hand is finished."""
    suspend(connection, ttl=seconds)


def resume(connection: Redis) -> bool:
    """Workers claim again; False when they were not paused."""
    return bool(rq_resume(connection))


def drain(connection: Redis, *, queue: str | None, worker: str | None) -> list[str]:
    """Ask the living workers (of ``queue``, or the one called ``worker``) to finish what they started and
    end; returns their names."""
    names = alive(connection, REDIS_WORKER_KEYS if queue is None else WORKERS_BY_QUEUE_KEY % queue)
    asked = [name for name in names if worker is None or name == worker]
    for name in asked:
        send_shutdown_command(connection, name)
    return asked


def wait_until_gone(connection: Redis, names: Sequence[str], timeout_s: float) -> list[str]:
    """Wait until workers have ended; returns those that have not within ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while True:
        left = [name for name in names if not _ended(connection, name)]
        if not left or time.monotonic() >= deadline:
            return left
        time.sleep(LOOK_EVERY_S)


def _ended(connection: Redis, name: str) -> bool:
    """RQ keeps the entry of a worker that has ended for a minute, with the time of its death."""
    key = WORKER_PREFIX + name
    return bool(connection.hexists(key, "death")) or not connection.exists(key)
