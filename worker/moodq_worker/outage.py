"""Redis away: how long to pause before the next try, and what the log says of it.

One line when it begins, one a minute while it lasts, one when it is over; the pauses grow and differ from
worker to worker, so that a server that comes back is not met by all at once.
"""

from __future__ import annotations

import logging
import random
import time

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0
LOG_EVERY_S = 60.0


class Outage:
    """Of one thread. ``what`` cannot be done meanwhile, e.g. "nothing is claimed"."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._failures = 0
        self._began = self._logged = 0.0

    def failed(self, error: Exception) -> float:
        """Seconds to pause before the next try."""
        now = time.monotonic()
        if not self._failures:
            self._began = now
        if not self._failures or now - self._logged >= LOG_EVERY_S:
            self._logged = now
            log.warning(
                "Redis: %s (%s); %s until it takes commands again", error, type(error).__name__, self._what
            )
        pause_s = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0 ** min(self._failures, 10))
        self._failures += 1
        return pause_s * random.uniform(0.5, 1.0)  # noqa: S311 - no secret

    def over(self) -> None:
        """It answered."""
        if self._failures:
            log.warning("Redis takes commands again after %.1f s", time.monotonic() - self._began)
            self._failures = 0
