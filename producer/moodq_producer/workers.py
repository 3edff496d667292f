"""What living workers tell of themselves in Redis, for ``moodq top`` and the exporter. Only reads."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import ValidationError
from redis import Redis
from redis.exceptions import NoPermissionError

from moodq_config.names import worker_info_key
from moodq_config.worker_info import MAX_BYTES, WorkerInfo

#: Workers looked at, at most.
MOST_WORKERS = 2_000
AT_ONCE = 100


def read_workers(connection: Redis, names: Sequence[str]) -> dict[str, WorkerInfo]:
    """By name, of those of ``names`` that tell something: plain RQ workers do not, and what no worker of
    ours wrote is passed over. Nothing where this Redis user may not read it."""
    found = {}
    for start in range(0, min(len(names), MOST_WORKERS), AT_ONCE):
        some = names[start : start + AT_ONCE]
        try:
            values = connection.mget([worker_info_key(name) for name in some])
        except NoPermissionError:
            return {}
        for name, value in zip(some, values, strict=True):
            if value is not None and (info := _read(value)):
                found[name] = info
    return found


def _read(value: bytes | str) -> WorkerInfo | None:
    if len(value) > MAX_BYTES:
        return None
    try:
        return WorkerInfo.model_validate_json(value)
    except ValidationError:
        return None
