"""Claims whose answer never came: the server registered jobs for this worker, and the connection broke.

Used by ``rq_worker`` at every beat. Without this such jobs would wait for the end of their lease and count an
attempt, as if a worker had died of them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from redis import Redis
from rq.executions import Execution
from rq.queue import Queue
from rq.utils import as_text

from moodq_worker.rq_scripts import Scripts

log = logging.getLogger(__name__)


class Unheard:
    """Of one worker; ``key`` is RQ's set of its executions, members ``job:execution``."""

    def __init__(
        self, connection: Redis, scripts: Scripts, queues: Sequence[Queue], *, worker: str, key: str
    ) -> None:
        self._connection = connection
        self._scripts = scripts
        self._queues = queues
        self._worker = worker
        self._key = key
        self._inherited: set[str] = set()
        self._seen: set[str] = set()

    def start(self) -> None:
        """Leave alone what a dead worker of this name left behind: that counts as an attempt, and is taken
        over when its lease ends."""
        self._inherited = self._registered()

    def put_back(self, in_hand: Iterable[Execution]) -> None:
        """Give back what is registered and not in hand, at two calls in a row: an answer that is still under
        way is not meant."""
        unheard = self._registered() - self._inherited
        unheard -= {execution.composite_key for execution in in_hand}
        lost, self._seen = sorted(unheard & self._seen), unheard
        if not lost:
            return
        keys = [(queue.key, queue.started_job_registry.key) for queue in self._queues]
        done = self._scripts.put_back(
            [key for pair in keys for _ in lost for key in pair],
            [part for _ in keys for member in lost for part in member.split(":", 1)],
            worker=self._worker,
        )
        self._connection.srem(self._key, *lost)
        log.warning("put back %d jobs whose claim was never answered", done)

    def _registered(self) -> set[str]:
        members: Any = self._connection.smembers(self._key)
        return {as_text(member) for member in members}
