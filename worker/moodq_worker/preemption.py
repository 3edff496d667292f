"""Between two layers of a long forward pass, a message that somebody waits for.

A batch of a full bulk queue runs for a quarter of a second; waiting for its end would more than double what
a single message takes. So the engine calls back between its layers, and a label that came meanwhile runs
there and then: the long pass goes on afterwards with nothing lost but the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Preemption:
    """``run`` labels some of the texts that came and says whether more wait. One thread, but for ``came``."""

    def __init__(self, run: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._run = run
        self._clock = clock
        self._waits = False
        self._yields = False
        self._began = self._given_s = self._given_for_own = 0.0

    def came(self) -> None:
        """A message came that may run between layers. Any thread."""
        self._waits = True

    @contextmanager
    def long_pass(self, share: float) -> Iterator[None]:
        """Within, ``between_layers`` lets messages run. ``share`` is the part of the time that the pass keeps
        for itself however many come; the first of them never waits."""
        self._given_for_own = 1 / share - 1 if share else float("inf")
        self._yields, self._began, self._given_s = True, self._clock(), 0.0
        try:
            yield
        finally:
            self._yields = False

    def between_layers(self) -> None:
        """Called by the engine; most often there is nothing to do."""
        if not (self._waits and self._yields):
            return
        now = self._clock()
        own_s = now - self._began - self._given_s
        if self._given_s > own_s * self._given_for_own:
            return
        self._yields = self._waits = False  # the messages' own pass is not interrupted
        try:
            if self._run():
                self._waits = True  # and what came meanwhile is not forgotten
        finally:
            self._yields = True
            self._given_s += self._clock() - now
