"""How many items a worker holds: about a second of its own work, so that it never waits for Redis, and what
it cannot start yet stays in the queue for other workers."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS_IN_HAND = 1.5
LEAST_IN_HAND, MOST_IN_HAND = 192, 16_384
#: Most jobs of one claim, so that its script stays quick.
MOST_JOBS = 256
#: Seconds over which the speed is measured anew.
WINDOW_S = 0.25


class Pace:
    """``finished`` is called by one thread, the rest by another; a number read late does no harm."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = clock()
        self._count = 0
        self._items_per_s = 0.0
        self._items_per_job = 100.0  # until jobs have been seen: rather too few of them

    def finished(self, items: int) -> None:
        """So many items have their outcome."""
        self._count += items
        spent = self._clock() - self._since
        if spent >= WINDOW_S:
            self._items_per_s = self._count / spent
            self._count, self._since = 0, self._clock()

    def claimed(self, jobs: int, items: int) -> None:
        """A claim brought so many."""
        if jobs:
            self._items_per_job = (self._items_per_job + max(1.0, items / jobs)) / 2

    @property
    def in_hand(self) -> int:
        """Items of one queue to hold that need the engine."""
        return max(LEAST_IN_HAND, min(MOST_IN_HAND, int(self._items_per_s * SECONDS_IN_HAND)))

    def jobs(self, in_hand: int) -> int:
        """Jobs to claim when so many items are in hand, at least one."""
        room = self.in_hand - in_hand
        return max(1, min(MOST_JOBS, int(room / self._items_per_job)))
