"""The failed registries, as ``moodq failed`` shows and mends them: what failed, why, after how many attempts.

Reads RQ's keys and what workers note beside them. A job in Redis is data from strangers: it is inflated
within a limit, read as JSON, and nothing else.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redis import Redis
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.registry import FailedJobRegistry
from rq.results import Result as RqResult
from rq.utils import as_text, now, utcformat

from moodq_config.contracts import item_id
from moodq_config.memory import MIB
from moodq_config.names import ATTEMPTS_FIELD, FAILURE_FIELD, events_key, result_key

#: Jobs read or changed in one round trip.
AT_ONCE = 200
#: Code shown for a job that no worker of moodq failed.
UNKNOWN = "unknown"

# KEYS: failed registry, queue list, job hash, then result and event stream of each of the
# job's items; those of done items stay.
# ARGV: job id, the moment, attempts a job has, names of the fields of attempts and failure.
# Returns whether the job was in the registry.
_RETRY = """
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
if redis.call('EXISTS', KEYS[3]) == 0 then return 0 end
for i = 4, #KEYS, 2 do
  local value = redis.pcall('GET', KEYS[i])
  if type(value) ~= 'string' or not string.find(value, '"status":"done"', 1, true) then
    redis.call('DEL', KEYS[i], KEYS[i + 1])
  end
end
redis.call('HSET', KEYS[3], 'status', 'queued', 'enqueued_at', ARGV[2], 'retries_left', ARGV[3] - 1)
redis.call('HDEL', KEYS[3], ARGV[4], ARGV[5], 'started_at', 'ended_at', 'exc_info')
redis.call('PERSIST', KEYS[3])
redis.call('RPUSH', KEYS[2], ARGV[1])
return 1
"""

# KEYS: failed registry, job hash, the job's RQ results. ARGV: job id.
_DROP = """
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('DEL', KEYS[2], KEYS[3])
return 1
"""


@dataclass(frozen=True, slots=True)
class FailedJob:
    """A job of a failed registry. ``items`` are the ids it carries, as far as they can be read; ``ended_at``
    is as RQ wrote it."""

    id: str
    queue: str
    code: str
    message: str
    attempts: int | None
    items: tuple[str, ...]
    description: str
    ended_at: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


class FailedJobs:
    """``queues`` None: every queue RQ knows. Methods raise ``redis.RedisError``."""

    def __init__(
        self, connection: Redis, queues: Sequence[str] | None, *, max_job_mb: int, max_attempts: int
    ) -> None:
        self._connection = connection
        self._max_bytes = max_job_mb * MIB
        self._max_attempts = max_attempts
        self._retry = connection.register_script(_RETRY)
        self._drop = connection.register_script(_DROP)
        if queues is None:
            prefix = Queue.redis_queue_namespace_prefix
            members: Any = connection.smembers(Queue.redis_queues_keys)
            queues = sorted(as_text(key).removeprefix(prefix) for key in members)
        self._queues = list(queues)

    def each(self, code: str | None = None) -> Iterator[FailedJob]:
        """Those that failed last come last, by queue; ``code`` None: of any code. Entries whose job has
        expired are left out."""
        for queue in self._queues:
            key = self._registry(queue)
            ids: Any = self._connection.zrange(key, 0, -1)
            for start in range(0, len(ids), AT_ONCE):
                some = [id.decode("utf-8", "replace") for id in ids[start : start + AT_ONCE]]
                for job in self._read(queue, some):
                    if code is None or job.code == code:
                        yield job

    def find(self, id: str) -> FailedJob | None:
        """The failed job of this id, or the one that carries the item of this id."""
        for queue in self._queues:
            if self._connection.zscore(self._registry(queue), id) is not None:
                return next(iter(self._read(queue, [id])), None)
        return next((job for job in self.each() if id in job.items), None)

    def texts(self, job: FailedJob) -> dict[str, str]:
        """The texts of its items by id."""
        data: Any = self._connection.hget(Job.key_for(job.id), "data")
        return {
            item_id(raw) or f"{job.id}-{number}": str(raw.get("text"))
            for number, raw in enumerate(self._items(data))
        }

    def retry(self, jobs: Sequence[FailedJob]) -> int:
        """Put them at the end of their queues, with all attempts anew and the failed results forgotten;
        returns how many were still there."""
        moment = utcformat(now())
        with self._connection.pipeline(transaction=False) as pipe:
            for job in jobs:
                queue = Queue(job.queue, connection=self._connection)
                keys = [self._registry(job.queue), queue.key, Job.key_for(job.id)]
                keys += [key for id in job.items for key in (result_key(id), events_key(id))]
                args: list[str | int] = [job.id, moment, self._max_attempts, ATTEMPTS_FIELD, FAILURE_FIELD]
                self._retry(keys, args, client=pipe)
            return sum(pipe.execute())

    def drop(self, jobs: Sequence[FailedJob]) -> int:
        """Delete them; their items' results stay until they expire. Returns how many were still there."""
        with self._connection.pipeline(transaction=False) as pipe:
            for job in jobs:
                results: Any = RqResult
                keys = [self._registry(job.queue), Job.key_for(job.id), results.get_key(job.id)]
                self._drop(keys, [job.id], client=pipe)
            return sum(pipe.execute())

    def _registry(self, queue: str) -> str:
        registry: Any = FailedJobRegistry
        return str(registry(queue, connection=self._connection).key)

    def _read(self, queue: str, ids: Sequence[str]) -> list[FailedJob]:
        with self._connection.pipeline(transaction=False) as pipe:
            for id in ids:
                pipe.hmget(
                    Job.key_for(id), ["status", "data", FAILURE_FIELD, "description", "ended_at"]
                )  # fmt: skip
            rows = pipe.execute(raise_on_error=False)
        return [
            self._job(queue, id, row)
            for id, row in zip(ids, rows, strict=True)
            if isinstance(row, list) and row[0] == JobStatus.FAILED.encode()
        ]

    def _job(self, queue: str, id: str, row: Sequence[bytes | None]) -> FailedJob:
        _, data, failure, description, ended_at = row
        told = _json(failure)
        told = told if isinstance(told, dict) else {}
        attempts = told.get("attempts")
        return FailedJob(
            id=id,
            queue=queue,
            code=str(told.get("code", UNKNOWN)),
            message=str(told.get("message", "failed outside of moodq; look at it with RQ's tools")),
            attempts=attempts if isinstance(attempts, int) else None,
            items=tuple(item_id(raw) or (f"{id}-{number}") for number, raw in enumerate(self._items(data))),
            description=(description or b"").decode("utf-8", "replace"),
            ended_at=(ended_at or b"").decode("utf-8", "replace"),
        )

    def _items(self, data: bytes | None) -> list[dict[str, Any]]:
        parts = _json(_inflated(data or b"", self._max_bytes))
        try:
            items = parts[2][0]["items"]  # type: ignore[index]
        except (LookupError, TypeError):
            return []
        return [raw for raw in items if isinstance(raw, dict)] if isinstance(items, list) else []


def _inflated(stored: bytes, max_bytes: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(stored, max_bytes)
    except zlib.error:
        return stored


def _json(value: bytes | None) -> object:
    try:
        return json.loads(value or b"null")
    except (ValueError, RecursionError):
        return None
