"""What the hand-off may cost in a day: requests and tokens of all workers, counted in Redis by day (UTC).

Beside ``stage``, called from its threads.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from redis import Redis

from moodq_config.names import remote_key

#: Longer than the day it counts, shorter than it could be taken for another.
KEPT_S = 2 * 86_400

# KEYS: the day's hash. ARGV: requests and tokens allowed (0: any number), seconds it is kept.
_TAKE = """
local requests = tonumber(redis.call('HGET', KEYS[1], 'requests') or '0')
local tokens = tonumber(redis.call('HGET', KEYS[1], 'tokens') or '0')
local max_requests, max_tokens = tonumber(ARGV[1]), tonumber(ARGV[2])
if max_requests > 0 and requests >= max_requests then return {0, requests, tokens} end
if max_tokens > 0 and tokens >= max_tokens then return {0, requests, tokens} end
redis.call('HINCRBY', KEYS[1], 'requests', 1)
redis.call('EXPIRE', KEYS[1], ARGV[3])
return {1, requests + 1, tokens}
"""


class Budget:
    """Tokens are known only afterwards: requests under way may take them over the limit."""

    def __init__(self, connection: Redis, *, requests: int, tokens: int) -> None:
        self._connection = connection
        self._take = connection.register_script(_TAKE)
        self._allowed = {"requests": requests, "tokens": tokens}
        #: What was left when last looked at, by unit, of those that are limited.
        self.left: dict[str, int] = {unit: allowed for unit, allowed in self._allowed.items() if allowed}

    def take(self) -> bool:
        """Count a request, if one is left. May raise ``RedisError``."""
        allowed = self._allowed
        found: Any = self._take([_today()], [allowed["requests"], allowed["tokens"], KEPT_S])
        taken, requests, tokens = map(int, found)
        self._note(requests=requests, tokens=tokens)
        return bool(taken)

    def spent(self, tokens: int) -> None:
        """Count tokens that an answer took. May raise ``RedisError``."""
        if tokens:
            self._note(tokens=int(self._connection.hincrby(_today(), "tokens", tokens)))

    def _note(self, **used: int) -> None:
        for unit, count in used.items():
            if self._allowed[unit]:
                self.left[unit] = max(0, self._allowed[unit] - count)


def _today() -> str:
    return remote_key(datetime.now(UTC).date().isoformat())
