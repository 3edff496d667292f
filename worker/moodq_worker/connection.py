"""The worker's connection to Redis: from the settings, or to the embedded server's address."""

from __future__ import annotations

from redis import Redis
from redis.backoff import ExponentialWithJitterBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from moodq_config.errors import Unavailable
from moodq_config.settings import Settings, mask_url, server_url


def connect(settings: Settings) -> Redis:
    """A client that answered a PING. Raises ``Unavailable`` (redis_unreachable)."""
    url = server_url(settings)
    client = Redis.from_url(
        url,
        socket_connect_timeout=5,
        **({} if url.startswith("unix:") else {"socket_keepalive": True}),
        health_check_interval=30,
        retry=Retry(ExponentialWithJitterBackoff(cap=1.0, base=0.05), retries=3),
    )
    try:
        client.ping()
    except (RedisError, OSError) as error:
        raise Unavailable(
            f"Redis at {mask_url(url)} does not answer ({type(error).__name__}); start it, correct "
            "MOODQ_REDIS_URL, or run `moodq up`, which brings its own"
        ) from error
    return client
