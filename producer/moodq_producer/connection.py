"""The producer's connection to Redis, and Redis' errors as errors of moodq.

The address is ``MOODQ_REDIS_URL``, or what ``moodq up`` wrote down for its embedded server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from redis import Redis
from redis.asyncio import BlockingConnectionPool
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.connection import parse_url
from redis.exceptions import (
    ClusterDownError,
    ConnectionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    TimeoutError,
)
from redis.retry import Retry
from redis.sentinel import Sentinel

from moodq_config.errors import Unavailable
from moodq_config.redis_url import SentinelUrl, sentinel_url
from moodq_config.settings import Settings, mask_url, server_url

#: Seconds one blocking read waits at the server before it is sent again.
BLOCK_S = 5.0
#: Seconds without an answer after which a connection counts as dead; longer than any blocking read.
SOCKET_TIMEOUT_S = 3 * BLOCK_S
#: Connections of one asyncio client; who finds none free waits for one, as long as for an answer.
MAX_CONNECTIONS = 100
#: Seconds a Sentinel may take: the next one is asked then.
SENTINEL_TIMEOUT_S = 2.0
#: Redis restarting or failing over: what the same call will get over, a while later.
AWAY = (ConnectionError, TimeoutError, ReadOnlyError, NoScriptError, ClusterDownError)


def connect(settings: Settings) -> Redis:
    """A client that answered a PING. Raises ``Unavailable`` (redis_unreachable)."""
    url = server_url(settings)
    options = {"retry": Retry(ExponentialWithJitterBackoff(cap=0.5, base=0.05), 3), **_options()}
    client: Redis
    if sentinels := sentinel_url(url):
        found = Sentinel(sentinels.nodes, sentinel_kwargs=_to_sentinels(sentinels, Retry))
        client = found.master_for(sentinels.service, **options, **_to_master(sentinels))
    else:
        client = Redis.from_url(url, **options)
    try:
        with redis_errors(url):
            client.ping()
    except Unavailable:
        close(client)
        raise
    return client


async def connect_async(settings: Settings) -> AsyncRedis:
    """The same for asyncio. Raises ``Unavailable`` (redis_unreachable)."""
    from redis.asyncio.retry import Retry as AsyncRetry

    url = server_url(settings)
    options = {"retry": AsyncRetry(ExponentialWithJitterBackoff(cap=0.5, base=0.05), 3), **_options()}
    client: AsyncRedis
    if sentinels := sentinel_url(url):
        found = AsyncSentinel(sentinels.nodes, sentinel_kwargs=_to_sentinels(sentinels, AsyncRetry))
        client = found.master_for(sentinels.service, **options, **_to_master(sentinels))
    else:
        pool = BlockingConnectionPool.from_url(
            url, max_connections=MAX_CONNECTIONS, timeout=SOCKET_TIMEOUT_S, **options
        )
        client = AsyncRedis.from_pool(pool)
    try:
        with redis_errors(url):
            await client.ping()
    except Unavailable:
        await close_async(client)
        raise
    return client


def close(client: Redis) -> None:
    """Close the client, and what asks the Sentinels for it."""
    client.close()
    for sentinel in _sentinels_of(client):
        sentinel.close()


async def close_async(client: AsyncRedis) -> None:
    """The same for asyncio."""
    await client.aclose()
    for sentinel in _sentinels_of(client):
        await sentinel.aclose()


def _sentinels_of(client: Any) -> list[Any]:
    manager = getattr(client.connection_pool, "sentinel_manager", None)
    return manager.sentinels if manager is not None else []


@contextmanager
def redis_errors(url: str) -> Iterator[None]:
    """Turn any error of Redis into ``Unavailable``. Redis' own words stay in the cause: they may quote what
    was sent."""
    try:
        yield
    except (RedisError, OSError) as error:
        raise unreachable(url, error) from error


def unreachable(url: str, error: Exception) -> Unavailable:
    return Unavailable(
        f"Redis at {mask_url(url)} does not answer as it should ({type(error).__name__}); start one with "
        "`moodq up`, or correct MOODQ_REDIS_URL"
    )


def block_s(connection: Redis | AsyncRedis) -> float:
    """Seconds a blocking read may last: less than a ``socket_timeout`` that the URL may ask for."""
    asked = connection.connection_pool.connection_kwargs.get("socket_timeout")
    return min(BLOCK_S, asked / 2) if asked else BLOCK_S


def _to_master(url: SentinelUrl) -> dict[str, Any]:
    """What redis-py takes for the connections to whichever server is master at the time."""
    asked = parse_url(url.server_url)
    tls = asked.pop("connection_class", None) is not None
    return {**{name: value for name, value in asked.items() if name != "host"}, "ssl": tls}


def _to_sentinels(url: SentinelUrl, retry: Callable[..., Any]) -> dict[str, Any]:
    """What it takes for the connections to the Sentinels: their own credentials, the server's TLS."""
    tls = {name: value for name, value in _to_master(url).items() if name.startswith("ssl")}
    return {
        "username": url.username,
        "password": url.password,
        "socket_timeout": SENTINEL_TIMEOUT_S,
        "socket_connect_timeout": SENTINEL_TIMEOUT_S,
        "retry": retry(NoBackoff(), 0),  # there are others to ask
        **tls,
    }


def _options() -> dict[str, Any]:
    return {
        "socket_connect_timeout": 5,
        "socket_timeout": SOCKET_TIMEOUT_S,
        "health_check_interval": 30,
        "protocol": 2,  # one shape of XREAD's reply with every version of redis-py
    }
