"""Pauses between two tries: growing, so that what is overloaded or away is not asked all the time, and of
random length, so that clients that failed together do not come back together."""

from __future__ import annotations

import random

#: Seconds of the first pause, and of the longest, before the jitter.
FIRST_S, LONGEST_S = 0.05, 1.0


def jittered(seconds: float) -> float:
    """Half of it to all of it."""
    return seconds * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


def backoff_s(attempt: int) -> float:
    """Seconds to wait after try number ``attempt``, from 1, has failed."""
    return jittered(min(LONGEST_S, FIRST_S * 2.0 ** min(attempt - 1, 10)))
