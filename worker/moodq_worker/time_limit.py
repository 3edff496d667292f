"""How long one call of the engine may take, kept between its layers.

The engine calls back every few milliseconds; a pass over its time is left there by an exception, as if the
model had raised. A pass that runs in the middle of another (``preemption``) has its own time. What hangs
within a layer cannot be left: then the whole process ends (``MOODQ_HANG_TIMEOUT_S``).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from moodq_config.errors import ErrorCode, ModelError


class PassTimeout(ModelError):
    """A pass took too long: of one text, or of a batch that is run again in halves."""

    default_code = ErrorCode.ENGINE_TIMEOUT


class Abandoned(BaseException):
    """The pass is not wanted any more: what runs is to be put back. Not an ``Exception``: no text failed."""


class PassTimer:
    """Used from the engine's thread, but for ``abandon``. ``started`` is told of every pass."""

    def __init__(
        self,
        limit_s: float,
        *,
        started: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit_s = limit_s
        self._started = started
        self._clock = clock
        self._ends = math.inf
        self._abandoned = False

    def abandon(self) -> None:
        """Leave the pass that runs, and all that would follow. Any thread."""
        self._abandoned = True

    @contextmanager
    def one_pass(self) -> Iterator[None]:
        """Within, ``check`` raises ``PassTimeout`` once the time is over."""
        outer, began = self._ends, self._clock()
        self._ends = began + self._limit_s
        self._started()
        try:
            yield
        finally:
            self._ends = outer + self._clock() - began  # the pass around it did not run meanwhile

    def check(self) -> None:
        """Called between layers."""
        if self._abandoned:
            raise Abandoned
        if self._clock() > self._ends:
            raise PassTimeout(f"the model took more than {self._limit_s:g} s (MOODQ_PASS_TIMEOUT_S)")
