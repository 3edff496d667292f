"""Going on through outages: what Redis cannot take now is tried again until it can, with growing pauses."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.exceptions import BusyLoadingError, OutOfMemoryError, RedisError

from moodq_config.errors import Unavailable
from moodq_producer.connection import AWAY

log = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
#: What passes by itself. Anything else (a right that is missing, a key of another type) does not.
PASSING = (*AWAY, OutOfMemoryError, BusyLoadingError)


class Steady:
    """Of one loop. Tells once when an outage begins and once when it is over."""

    def __init__(self) -> None:
        self._away_since: float | None = None

    async def until_done(self, call: Callable[[], Awaitable[T]]) -> T:
        """What ``call`` gives, once it does. Raises ``Unavailable`` for what does not pass by itself."""
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                done = await call()
            except (RedisError, Unavailable) as error:
                if not passes(error):
                    if isinstance(error, RedisError):
                        raise _refused(error) from error
                    raise
                self._told(error)
            else:
                if self._away_since is not None:
                    log.warning("Redis answers again after %.1f s", time.monotonic() - self._away_since)
                    self._away_since = None
                return done
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause_s = min(LONGEST_PAUSE_S, pause_s * 2)

    def _told(self, error: Exception) -> None:
        if self._away_since is None:
            self._away_since = time.monotonic()
            log.warning("Redis does not answer as it should (%s); waiting for it", type(error).__name__)


def _refused(error: RedisError) -> Unavailable:
    kind = " ".join(dict.fromkeys([type(error).__name__, *str(error).split()[:1]]))
    return Unavailable(
        f"Redis refuses a command ({kind}); look at the types of the keys that were named, and at the rights "
        "of the Redis user (docs/follow.md has those that are needed)"
    )


def passes(error: BaseException) -> bool:
    """Whether the same call will do later."""
    return isinstance(error, PASSING) or isinstance(error.__cause__ or error.__context__, PASSING)
