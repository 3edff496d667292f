"""From texts to RQ jobs: items checked at the edge, the job's hash, and the one script that enqueues it.

Pure: nothing here talks to Redis, so the sync and the async client share it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice
from typing import Any, TypeVar

from redis import Redis
from rq.job import JOB_ID_PATTERN, Job, JobStatus, Retry
from rq.queue import Queue
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry
from rq.utils import now, utcformat

from moodq_config.contracts import ItemLimits, RequestItem, job_payload, parse_item
from moodq_config.errors import BadInput, ConfigError, QueueFull
from moodq_config.names import JOB_FUNCTION, result_key
from moodq_config.settings import Settings, load_settings
from moodq_config.tasks import load_tasks

#: A text, a request item, or a mapping with its fields.
Source = str | RequestItem | Mapping[str, Any]

#: Lease and heartbeat end a stuck job; RQ's own per-job timeout would kill a whole batch.
NO_TIMEOUT = -1

# Atomic: a resubmission can neither make a second job nor slip past the limit. What is left of an earlier
# job with this id is replaced once that job has ended and its result has expired.
ENQUEUE_SCRIPT = """
    -- KEYS: job hash, queue, set of queues, three registries of ended jobs, then the items' result keys
    -- ARGV: job id, limit of the queue's length, then the fields of the job hash
    local kept = 0
    for i = 7, #KEYS do
        kept = kept + redis.call('EXISTS', KEYS[i])
    end
    if kept == #KEYS - 6 then
        return 0
    end
    local status = redis.call('HGET', KEYS[1], 'status')
    local ended = {finished = true, failed = true, stopped = true, canceled = true}
    if status and not ended[status] then
        return 0
    end
    if redis.call('LLEN', KEYS[2]) >= tonumber(ARGV[2]) then
        return -1
    end
    if status then
        redis.call('DEL', KEYS[1])
        for i = 4, 6 do
            redis.call('ZREM', KEYS[i], ARGV[1])
        end
    end
    redis.call('HSET', KEYS[1], unpack(ARGV, 3))
    redis.call('SADD', KEYS[3], KEYS[2])
    redis.call('RPUSH', KEYS[2], ARGV[1])
    return 1
"""


class Outcome(IntEnum):
    """What ``ENQUEUE_SCRIPT`` returns. ``KNOWN``: the job is under way, or all its results are there."""

    FULL = -1
    KNOWN = 0
    ENQUEUED = 1


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job ready to be enqueued: ``keys`` and ``fields`` are those of ``ENQUEUE_SCRIPT``."""

    id: str
    item_ids: tuple[str, ...]
    keys: tuple[str, ...]
    fields: tuple[str | bytes | int, ...]

    def script_args(self, max_queue_length: int) -> list[str | bytes | int]:
        """``ARGV`` of the script; the queue time counts from now."""
        return [self.id, max_queue_length, *self.fields, "enqueued_at", utcformat(now())]


class Utf8Json:
    """RQ's JSON layout, with text as text: a Chinese message is half as long as with ``\\u`` escapes."""

    @staticmethod
    def dumps(obj: Any) -> bytes:
        return json.dumps(obj, ensure_ascii=False, separators=(",", ":")).encode("utf-8")

    @staticmethod
    def loads(data: bytes) -> Any:
        return json.loads(data)


class JobMaker:
    """Checks items against the settings' limits and builds jobs of them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._limits = ItemLimits(
            max_text_chars=settings.max_text_chars, task_names=frozenset(load_tasks(settings.tasks_file))
        )

    def item(self, source: Source, tasks: Sequence[str] | str, **fields: Any) -> RequestItem:
        """Check one item; ``tasks`` and ``fields`` fill what ``source`` does not say. Raises ``BadInput``."""
        names = [tasks] if isinstance(tasks, str) else list(tasks)
        filled = {name: value for name, value in fields.items() if value is not None}
        raw = {"tasks": names, **filled, **_raw(source)}
        return parse_item(raw, self._limits)

    def numbered_items(
        self, sources: Iterable[Source], tasks: Sequence[str] | str, lang: str | None
    ) -> Iterator[RequestItem]:
        """The items of ``sources``. Raises ``BadInput`` that says which of them is wrong, from 0 on."""
        for number, source in enumerate(sources):
            try:
                yield self.item(source, tasks, lang=lang)
            except BadInput as error:
                raise BadInput(f"item {number}: {error.message}", code=error.code) from error.__cause__

    def job(self, items: Sequence[RequestItem], queue: str, connection: Any) -> QueuedJob:
        """The job of ``items``. ``connection`` only satisfies RQ's constructor, nothing is sent."""
        settings = self.settings
        count = len(items)
        job = Job.create(
            JOB_FUNCTION,
            args=[job_payload(list(items))],
            connection=connection,
            id=job_id([item.id for item in items]),
            origin=queue,
            status=JobStatus.QUEUED,
            description=f"moodq: {count} item{'s' if count > 1 else ''}",  # RQ would put the text here
            timeout=NO_TIMEOUT,
            result_ttl=settings.result_ttl_s,
            failure_ttl=settings.failure_ttl_s,
            retry=Retry(max=settings.max_attempts - 1) if settings.max_attempts > 1 else None,
            serializer=Utf8Json,
        )
        fields: list[str | bytes | int] = []
        for name, value in job.to_dict().items():
            if value != "":
                fields += [name, value]
        ids = tuple(item.id for item in items)
        keys = (job.key, *_queue_keys(queue, connection), *map(result_key, ids))
        return QueuedJob(id=str(job.id), item_ids=ids, keys=keys, fields=tuple(fields))

    def check_queue(self, queue: str) -> None:
        """Raises ``ConfigError`` for a queue that no worker of these settings serves."""
        if queue not in self.settings.queues:
            raise ConfigError(
                f"queue {queue!r} is not one of MOODQ_QUEUES ({', '.join(self.settings.queues)}); no worker "
                "would take its jobs"
            )

    def chunk_size(self, chunk: int) -> int:
        """Items per job. Raises ``ConfigError`` when ``chunk`` is out of range."""
        if not 1 <= chunk <= self.settings.max_items_per_job:
            raise ConfigError(
                f"chunk is {chunk}, accepted: 1 to {self.settings.max_items_per_job} "
                "(MOODQ_MAX_ITEMS_PER_JOB)"
            )
        return chunk

    def queue_full(self, queue: str) -> QueueFull:
        return QueueFull(
            f"queue {queue!r} holds {self.settings.max_queue_length} jobs, its limit; try again later, start "
            "more workers, or raise MOODQ_MAX_QUEUE_LENGTH"
        )


def job_id(item_ids: Sequence[str]) -> str:
    """A single item's job has the item's id; any other gets one that follows from its items, so that the
    same chunk sent again is known. RQ allows fewer characters than an item's id may have."""
    if len(item_ids) == 1 and JOB_ID_PATTERN.fullmatch(item_ids[0]):
        return item_ids[0]
    digest = hashlib.sha256("\n".join(item_ids).encode()).hexdigest()[:32]
    return f"{'item' if len(item_ids) == 1 else 'chunk'}-{digest}"


def settings_from(given: Settings | str | None) -> Settings:
    """The settings of a client made with settings, with a Redis URL, or with nothing."""
    if isinstance(given, Settings):
        return given
    return load_settings() if given is None else load_settings(redis_url=given)


_T = TypeVar("_T")


def chunks(values: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of ``size`` values, the last one may be shorter. Reads no further than it has to."""
    source = iter(values)
    while chunk := list(islice(source, size)):
        yield chunk


def _queue_keys(queue: str, connection: Redis) -> tuple[str, ...]:
    registries = (FinishedJobRegistry, FailedJobRegistry, CanceledJobRegistry)
    return (
        Queue(queue, connection=connection).key,
        Queue.redis_queues_keys,
        *(registry(queue, connection=connection).key for registry in registries),
    )


def _raw(source: Source) -> dict[str, Any]:
    if isinstance(source, str):
        return {"text": source}
    if isinstance(source, RequestItem):
        return source.model_dump(exclude_none=True)
    if isinstance(source, Mapping):
        return dict(source)
    raise BadInput(f"item is {type(source).__name__}; send a text, a RequestItem, or a mapping of its fields")
