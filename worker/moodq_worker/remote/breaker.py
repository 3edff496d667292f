"""A circuit breaker: an endpoint that fails again and again is left alone for a while.

Beside ``stage``, one for each worker. Written here because pybreaker runs one guarded call at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

log = logging.getLogger(__name__)


class Breaker:
    """Closed until ``failures`` in a row; then open for ``pause_s``; then one request may try."""

    def __init__(
        self,
        *,
        failures: int,
        pause_s: float,
        changed: Callable[[bool], None] = lambda is_open: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures = failures
        self._pause_s = pause_s
        self._changed = changed
        self._clock = clock
        self._lock = threading.Lock()
        self._in_a_row = 0
        self._open_until: float | None = None
        self._trying = False

    def allows(self) -> bool:
        """Whether a request may be sent. One that may must be followed by ``went``."""
        with self._lock:
            if self._open_until is None:
                return True
            if self._trying or self._clock() < self._open_until:
                return False
            self._trying = True
            return True

    def went(self, well: bool | None) -> None:
        """A request that was allowed has ended; None: it was not sent after all."""
        with self._lock:
            was_open = self._open_until is not None
            self._trying = False
            if well is None:
                return
            self._in_a_row = 0 if well else self._in_a_row + 1
            if well:
                self._open_until = None
            elif was_open or self._in_a_row >= self._failures:
                self._open_until = self._clock() + self._pause_s
            is_open = self._open_until is not None
        if is_open and not was_open:
            log.warning(
                "remote endpoint: %d failures in a row; left alone for %g s", self._in_a_row, self._pause_s
            )
        elif was_open and not is_open:
            log.info("remote endpoint: answers again")
        if is_open != was_open:
            self._changed(is_open)
