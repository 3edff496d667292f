"""Signs of life: one thread keeps the lease of every job in hand, and takes over those of dead workers.

The beat does not depend on the length of a forward pass. It stops when the loop has not turned for
``hang_s``: then the engine is stuck, and another worker must be allowed to take the jobs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from redis.exceptions import RedisError

from moodq_worker.outage import Outage
from moodq_worker.rq_claim import Claim
from moodq_worker.rq_worker import BatchWorker

log = logging.getLogger(__name__)

#: Beats per lease: two may be lost before the lease runs out.
BEATS_PER_LEASE = 3


class Heartbeat:
    """``gave_up`` gets every job whose attempts are used up; the caller writes its failed results.
    ``requeued`` gets how many jobs of each queue were put back."""

    def __init__(
        self,
        worker: BatchWorker,
        *,
        lease_s: float,
        hung: Callable[[], bool],
        on_hang: Callable[[], None],
        gave_up: Callable[[Claim], None],
        requeued: Callable[[Mapping[str, int]], None],
    ) -> None:
        self._worker = worker
        self._every_s = lease_s / BEATS_PER_LEASE
        self._hung = hung
        self._on_hang = on_hang
        self._gave_up = gave_up
        self._requeued = requeued
        self._outage = Outage("no heartbeat is sent")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=self._every_s + 1)

    def _run(self) -> None:
        pause_s = self._every_s
        while not self._stop.wait(pause_s):
            if self._hung():
                log.critical("the engine is stuck: heartbeats stop, so that another worker takes the jobs")
                self._on_hang()
                return
            try:
                self._worker.beat()
                self._take_over()
                self._outage.over()
                pause_s = self._every_s
            except RedisError as error:
                pause_s = min(self._every_s, self._outage.failed(error))

    def _take_over(self) -> None:
        taken = self._worker.take_over()
        if taken.requeued:
            log.warning("took over %d jobs of a dead worker", taken.requeued)
            self._requeued(taken.by_queue)
        for claim in taken.given_up:
            self._gave_up(claim)
