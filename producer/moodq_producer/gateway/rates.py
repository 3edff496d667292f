"""How often a key may call: requests a second, counted in this process."""

from __future__ import annotations

from limits import RateLimitItemPerSecond
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter

from moodq_config.errors import RateLimited


class Rates:
    """Requests a second by key. ``per_s`` 0: any."""

    def __init__(self, per_s: int) -> None:
        self._item = RateLimitItemPerSecond(per_s) if per_s else None
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def check(self, name: str) -> None:
        """Count a request. Raises ``RateLimited``."""
        if self._item is not None and not await self._limiter.hit(self._item, name):
            raise RateLimited(
                f"more than {self._item.amount} requests a second with this key; try again in a second, or "
                "raise MOODQ_GATEWAY_REQUESTS_PER_S",
                retry_after_s=1.0,
            )
