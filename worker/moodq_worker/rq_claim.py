"""A job in hand, as it passes from ``rq_worker``'s claim through ``intake`` and ``loop`` to ``delivery``."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rq.executions import Execution
from rq.queue import Queue

from moodq_config.errors import MoodqError
from moodq_worker.rq_job import MoodqJob


@dataclass(slots=True)
class Claim:
    """A job in hand. Times are unix seconds; ``attempt`` counts from 1. ``error`` says why it cannot be run;
    the caller then fails it."""

    job: MoodqJob
    queue: Queue
    execution: Execution
    attempt: int
    claimed_at: float
    enqueued_at: float
    error: MoodqError | None = None


@dataclass(frozen=True, slots=True)
class TakenOver:
    """``by_queue``: how many were put back. ``given_up`` are jobs whose attempts are used up; they are in
    hand and the caller fails them."""

    by_queue: dict[str, int]
    given_up: list[Claim]

    @property
    def requeued(self) -> int:
        return sum(self.by_queue.values())


def fresh_ids(count: int) -> list[str]:
    """Execution ids as RQ makes them, from one read of the system's randomness."""
    digits = os.urandom(16 * count).hex()
    return [digits[start : start + 32] for start in range(0, len(digits), 32)]
