"""Whether results still fit into Redis: asked by the intake before it claims.

Everything a worker writes expires, so a worker that stops claiming in time needs only to wait. What it has in
hand counts as if it were written already. Jobs written by hand pass no producer's check; they meet this one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from redis import Redis

from moodq_config.memory import CLAIM_SHARES, ENDED_JOB_BYTES, ITEM_BYTES, MIB, TOKEN_BYTES
from moodq_config.tasks import WriteTask
from moodq_worker.items import Job
from moodq_worker.pace import MOST_JOBS

log = logging.getLogger(__name__)

#: Seconds one reading counts at most; other workers write meanwhile.
READ_EVERY_S = 0.5
#: Part of the room left that may be taken before the next reading.
READ_AGAIN_AT = 0.25
WARN_EVERY_S = 60.0
#: Bytes a job's results may take as long as none was seen: rather too many.
UNSEEN_JOB_BYTES = 100.0 * ITEM_BYTES


class MemoryGuard:
    """``max_bytes``: what Redis may use in all; 0: not looked at. Raises ``redis.RedisError``."""

    def __init__(
        self,
        connection: Redis,
        *,
        max_bytes: int,
        first_queue: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection = connection
        self._max_bytes = max_bytes
        self._first_queue = first_queue
        self._clock = clock
        self._lock = threading.Lock()
        self._in_hand = 0
        self._job_bytes: dict[str, float] = defaultdict(lambda: UNSEEN_JOB_BYTES)
        self._used = self._taken = 0
        self._limit = max_bytes
        self._read_at = self._warned_at = float("-inf")

    def jobs(self, queue: str) -> int:
        """How many jobs of ``queue`` may be claimed: as many as fit if they are like those before; one if
        there is any room, however large it proves to be."""
        if not self._max_bytes:
            return MOST_JOBS
        room = self._room(queue)
        if room <= 0 or self._taken > room * READ_AGAIN_AT or self._clock() >= self._read_at + READ_EVERY_S:
            self._read()
            room = self._room(queue)
        if room <= 0 and self._clock() >= self._warned_at + WARN_EVERY_S:
            self._warned_at = self._clock()
            log.warning(
                "Redis uses %.1f of %.1f MiB: queue %s is left alone until results expire; shorten "
                "MOODQ_RESULT_TTL_S or raise MOODQ_MAX_REDIS_MB",
                self._used / MIB,
                self._limit / MIB,
                queue,
            )
        return min(MOST_JOBS, max(1, int(room / self._job_bytes[queue]))) if room > 0 else 0

    def took(self, queue: str, bytes: int) -> None:
        """So much will be written for a job of ``queue`` that was claimed."""
        with self._lock:
            self._in_hand += bytes
            self._taken += bytes
        self._job_bytes[queue] = max(bytes, (self._job_bytes[queue] + bytes) / 2)

    def returned(self, bytes: int) -> None:
        """That job has ended."""
        with self._lock:
            self._in_hand -= bytes

    def warn_of_eviction(self) -> None:
        """Log it when the server is configured to drop keys, jobs among them, instead of refusing writes."""
        found: dict[str, Any] = self._connection.info("memory")
        policy = str(found.get("maxmemory_policy", "noeviction"))
        if found.get("maxmemory") and policy != "noeviction":
            log.error(
                "Redis drops keys when it is full (maxmemory-policy %s), and jobs and results with them; set "
                "maxmemory-policy to noeviction",
                policy,
            )

    def _room(self, queue: str) -> float:
        share = CLAIM_SHARES[queue != self._first_queue]
        return self._limit * share - self._used - self._taken

    def _read(self) -> None:
        found: dict[str, Any] = self._connection.info("memory")
        with self._lock:
            self._limit = min(self._max_bytes, int(found.get("maxmemory") or self._max_bytes))
            self._used = int(found["used_memory"])
            self._taken = self._in_hand
        self._read_at = self._clock()


def result_bytes(job: Job) -> int:
    """Bytes of Redis that the results of ``job`` may take: metadata comes back, twice; tokens are followed in
    jobs of one item only."""
    size = ENDED_JOB_BYTES + len(job.items) * ITEM_BYTES + 2 * len(job.claim.job.data)
    # Turns are no longer than data and tokens, but kept beside them.
    size += sum(ITEM_BYTES for item in job.items if item.conversation is not None)
    if len(job.items) == 1:
        [item] = job.items
        for name in item.generates_todo:
            task = item.tasks[name]
            size += task.max_new_tokens * TOKEN_BYTES if isinstance(task, WriteTask) else 0
    return size
