"""The callbacks that are owed, in Redis: a sorted set by when each is to be looked at next, a hash for each.

Whoever looks at one moves it a lease ahead in the same step, so that of several gateways one has it in hand;
when that one dies, another finds it due.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from redis.asyncio import Redis

from moodq_config.errors import ErrorCode, Unavailable
from moodq_config.names import CALLBACKS_KEY, callback_key

#: Seconds after which one that nobody renews is another gateway's.
LEASE_S = 30

_REGISTER = """
-- KEYS: the sorted set, the callback's hash. ARGV: how many there may be, its name, lease, TTL, then fields
if redis.call('EXISTS', KEYS[2]) == 1 then
    return 0
end
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[1]) then
    return -1
end
redis.call('HSET', KEYS[2], unpack(ARGV, 5))
redis.call('EXPIRE', KEYS[2], ARGV[4])
redis.call('ZADD', KEYS[1], redis.call('TIME')[1] + ARGV[3], ARGV[2])
return 1
"""

_CLAIM = """
-- KEYS: the sorted set. ARGV: how many, lease
local now = redis.call('TIME')[1]
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, name in ipairs(due) do
    redis.call('ZADD', KEYS[1], now + ARGV[2], name)
end
return due
"""

_AFTER = """
-- KEYS: the sorted set. ARGV: seconds from now, then names: those that are still there
local at = redis.call('TIME')[1] + ARGV[1]
for i = 2, #ARGV do
    redis.call('ZADD', KEYS[1], 'XX', at, ARGV[i])
end
"""


@dataclass(frozen=True, slots=True)
class Callback:
    """One that is owed: the result of ``item`` to ``url``, for the API key called ``key``. ``body`` is the
    result once it is known; ``attempts`` counts failed ones."""

    item: str
    url: str
    key: str
    attempts: int = 0
    body: bytes | None = None

    @property
    def name(self) -> str:
        """What it is called in Redis, and to its receiver: the same however often it is asked for."""
        return "cb_" + hashlib.sha256(f"{self.item}\n{self.url}\n{self.key}".encode()).hexdigest()[:32]


class Pending:
    """``most`` may be owed at once; each is kept ``ttl_s``. Every method may raise ``RedisError``."""

    def __init__(self, redis: Redis, *, most: int, ttl_s: int) -> None:
        self._redis: Any = redis
        self._most = most
        self._ttl_s = ttl_s

    async def register(self, callback: Callback) -> bool:
        """Owe it, leased to the caller; False when it is owed already. Raises ``Unavailable``."""
        keys = [CALLBACKS_KEY, callback_key(callback.name)]
        fields = ["item", callback.item, "url", callback.url, "key", callback.key]
        args = [self._most, callback.name, LEASE_S, self._ttl_s, *fields]
        found = await self._redis.register_script(_REGISTER)(keys=keys, args=args)
        if found < 0:
            raise Unavailable(
                f"{self._most} callbacks are waiting; try again later, or raise MOODQ_GATEWAY_MAX_CALLBACKS",
                code=ErrorCode.QUEUE_FULL,
            )
        return bool(found)

    async def claim(self, count: int) -> list[str]:
        """Names of those that are due, leased to the caller."""
        found = await self._redis.register_script(_CLAIM)(keys=[CALLBACKS_KEY], args=[count, LEASE_S])
        return [name.decode() for name in found]

    async def look_again(self, names: Iterable[str], after_s: float) -> None:
        """Have them due in ``after_s`` seconds; renews a lease, ends one, or puts off the next attempt."""
        if args := list(names):
            await self._redis.register_script(_AFTER)(keys=[CALLBACKS_KEY], args=[after_s, *args])

    async def read(self, name: str) -> Callback | None:
        """What is owed under that name; None when it has been forgotten or is past its TTL."""
        found = cast("dict[bytes, bytes]", await self._redis.hgetall(callback_key(name)))
        try:
            item, url, key = (found[field].decode() for field in (b"item", b"url", b"key"))
            return Callback(item, url, key, int(found.get(b"attempts", 0)), found.get(b"body"))
        except (KeyError, ValueError):
            await self.forget(name)
            return None

    async def keep(self, name: str, **fields: str | bytes | int) -> None:
        """Note something of it."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.hset(callback_key(name), mapping=fields)
            pipe.expire(callback_key(name), self._ttl_s)
            await pipe.execute()

    async def forget(self, name: str) -> None:
        """It is owed no more."""
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.delete(callback_key(name))
            pipe.zrem(CALLBACKS_KEY, name)
            await pipe.execute()
