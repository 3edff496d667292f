"""The worker's connection to Redis: from the settings, or to the embedded server's address.

What is wrong for a while (a restart, a failover, full memory) is waited for; ``passing`` tells it from what
would be refused for ever.
"""

from __future__ import annotations

from typing import Any

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.connection import parse_url
from redis.exceptions import (
    ClusterDownError,
    ConnectionError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TimeoutError,
    TryAgainError,
)
from redis.retry import Retry
from redis.sentinel import Sentinel

from moodq_config.errors import Unavailable
from moodq_config.redis_url import SentinelUrl, sentinel_url
from moodq_config.settings import Settings, mask_url, server_url

#: Seconds without an answer after which a connection counts as dead: longer than any blocking read, and short
#: enough that a heartbeat which runs into it still comes before the default lease ends.
SOCKET_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
#: Seconds a Sentinel may take: the next one is asked then.
SENTINEL_TIMEOUT_S = 2.0

#: What another moment, or a person, will change: away, failing over, loading, full, a right that is missing.
_PASSING = (
    *(ConnectionError, TimeoutError, ReadOnlyError, OutOfMemoryError, NoPermissionError),
    *(NoScriptError, TryAgainError, ClusterDownError),
)
#: The same among answers that redis-py has no class for; old servers put a script's behind their own words.
_PASSING_WORDS = frozenset(
    {
        "OOM",
        "-OOM",
        "READONLY",
        "-READONLY",
        "BUSY",
        "MISCONF",
        "-MISCONF",
        "NOREPLICAS",
        "UNBLOCKED",
        "NOPERM",
    }
)


def connect(settings: Settings) -> Redis:
    """A client that answered a PING. Raises ``Unavailable`` (redis_unreachable)."""
    url = server_url(settings)
    options: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "health_check_interval": 30,
        "retry": Retry(ExponentialWithJitterBackoff(cap=1.0, base=0.05), retries=3),
    }
    if not url.startswith("unix:"):
        options["socket_keepalive"] = True
    sentinels = sentinel_url(url)
    client = _master(sentinels, options) if sentinels else Redis.from_url(url, **options)
    try:
        client.ping()
    except (RedisError, OSError) as error:
        raise unreachable(url, error) from error
    return client


def unreachable(url: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"Redis at {mask_url(url)} does not answer ({type(error).__name__}); start it, correct "
        "MOODQ_REDIS_URL, or run `moodq up`, which brings its own"
    )


def passing(error: Exception) -> bool:
    """Whether to try the same again later: False only for what the server will never take."""
    if isinstance(error, _PASSING):
        return True
    return isinstance(error, ResponseError) and not _PASSING_WORDS.isdisjoint(str(error).split())


def _master(url: SentinelUrl, options: dict[str, Any]) -> Redis:
    """A client of whichever server the Sentinels call master at the time."""
    asked = parse_url(url.server_url)
    tls = asked.pop("connection_class", None) is not None
    asked.pop("host")
    secure = {name: value for name, value in asked.items() if name.startswith("ssl_")}
    sentinel = Sentinel(
        url.nodes,
        sentinel_kwargs={
            "username": url.username,
            "password": url.password,
            "socket_timeout": SENTINEL_TIMEOUT_S,
            "socket_connect_timeout": SENTINEL_TIMEOUT_S,
            "retry": Retry(NoBackoff(), retries=0),  # there are others to ask
            "ssl": tls,
            **secure,
        },
    )
    client: Redis = sentinel.master_for(url.service, ssl=tls, **options, **asked)
    return client
