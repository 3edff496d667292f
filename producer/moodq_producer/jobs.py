"""From texts to RQ jobs: items checked at the edge, and the job's hash, which ``enqueue`` sends.

Pure: nothing here talks to Redis, so the sync and the async client share it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any, TypeVar
from uuid import uuid4

from redis import Redis
from rq.job import Job, JobStatus, Retry
from rq.queue import Queue
from rq.registry import CanceledJobRegistry, FailedJobRegistry, FinishedJobRegistry

from moodq_config.contracts import ItemLimits, RequestItem, job_payload, parse_item
from moodq_config.errors import BadInput, ConfigError, ErrorCode
from moodq_config.memory import MIB
from moodq_config.names import JOB_FUNCTION, job_id, result_key
from moodq_config.settings import Settings, load_settings
from moodq_config.task_file import TaskFile
from moodq_config.trace_context import NO_CONTEXT, JobContext
from moodq_producer.enqueue import Gate, QueuedJob

#: A text, a request item, or a mapping with its fields.
Source = str | RequestItem | Mapping[str, Any]

#: A moment, or seconds from now.
Deadline = datetime | float | None

#: Lease and heartbeat end a stuck job; RQ's own per-job timeout would kill a whole batch.
NO_TIMEOUT = -1


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
        self._tasks = TaskFile(settings.tasks_file)
        self._limits = self._limits_now()
        self.gate = Gate(settings)

    def item(self, source: Source, tasks: Sequence[str] | str, **fields: Any) -> RequestItem:
        """Check one item; ``tasks`` and ``fields`` fill what ``source`` does not say. Raises ``BadInput``;
        ``ConfigError`` when it does not fit the known tasks and their file, edited since, is broken."""
        names = [tasks] if isinstance(tasks, str) else list(tasks)
        filled = {name: value for name, value in fields.items() if value is not None}
        raw = {"tasks": names, **filled, **_raw(source)}
        if self.settings.long_text == "truncate":
            raw.setdefault("long_text", "truncate")  # the worker cuts, and may be configured otherwise
        prefix = self.settings.id_prefix
        if prefix and raw.get("id") is None:
            raw["id"] = prefix + uuid4().hex
        item = self._checked(raw)
        if not item.id.startswith(prefix):
            raise BadInput(f"field 'id': must begin with {prefix!r}, which is MOODQ_ID_PREFIX")
        if item.conversation is not None and not item.conversation.startswith(prefix):
            raise BadInput(f"field 'conversation': must begin with {prefix!r}, which is MOODQ_ID_PREFIX")
        return item

    def _checked(self, raw: Mapping[str, Any]) -> RequestItem:
        try:
            return parse_item(raw, self._limits)
        except BadInput as error:
            about_tasks = error.code in (ErrorCode.UNKNOWN_TASK, ErrorCode.INVALID_FIELD)
            if not (about_tasks and self._tasks.refresh()):
                raise
        self._limits = self._limits_now()  # the tasks file was edited: a new task may be sent at once
        return parse_item(raw, self._limits)

    def _limits_now(self) -> ItemLimits:
        settings, tasks = self.settings, self._tasks.tasks
        return ItemLimits(
            max_text_chars=settings.max_text_chars,
            max_metadata_bytes=settings.max_metadata_bytes,
            long_text=settings.long_text,
            task_names=frozenset(tasks),
            needs=tasks.needs,
        )

    def numbered_items(
        self, sources: Iterable[Source], tasks: Sequence[str] | str, lang: str | None
    ) -> Iterator[RequestItem]:
        """The items of ``sources``. Raises ``BadInput`` that says which of them is wrong, from 0 on."""
        for number, source in enumerate(sources):
            try:
                yield self.item(source, tasks, lang=lang)
            except BadInput as error:
                raise BadInput(f"item {number}: {error.message}", code=error.code) from error.__cause__

    def job(
        self,
        items: Sequence[RequestItem],
        queue: str,
        connection: Any,
        context: JobContext = NO_CONTEXT,
    ) -> QueuedJob:
        """The job of ``items``. ``connection`` only satisfies RQ's constructor, nothing is sent.
        Raises ``BadInput`` (job_too_large)."""
        settings = self.settings
        count = len(items)
        job = Job.create(
            JOB_FUNCTION,
            args=[job_payload(list(items), context)],
            connection=connection,
            id=job_id([item.id for item in items], settings.id_prefix),
            origin=queue,
            status=JobStatus.QUEUED,
            description=f"moodq: {count} item{'s' if count > 1 else ''}",  # RQ would put the text here
            timeout=NO_TIMEOUT,
            result_ttl=settings.result_ttl_s,
            failure_ttl=settings.failure_ttl_s,
            retry=Retry(max=settings.max_attempts - 1) if settings.max_attempts > 1 else None,
            serializer=Utf8Json,
        )
        if len(job.data) > settings.max_job_mb * MIB:
            raise BadInput(
                f"a job of {count} items has {len(job.data)} bytes of data, the limit is "
                f"{settings.max_job_mb} MiB; send fewer items per job, or raise MOODQ_MAX_JOB_MB on producer "
                "and worker",
                code=ErrorCode.JOB_TOO_LARGE,
            )
        fields: list[str | bytes | int] = []
        for name, value in job.to_dict().items():
            if value != "":
                fields += [name, value]
        ids = tuple(item.id for item in items)
        keys = (job.key, *_queue_keys(queue, connection), *self.gate.keys, *map(result_key, ids))
        stored = sum(len(field) for field in fields if isinstance(field, bytes))
        return QueuedJob(str(job.id), queue, ids, keys, tuple(fields), stored)

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


def deadline_text(deadline: Deadline) -> str | None:
    """A deadline as an item carries it. Raises ``BadInput`` for a moment without a time zone."""
    if deadline is None:
        return None
    if not isinstance(deadline, datetime):
        try:
            deadline = datetime.now(UTC) + timedelta(seconds=deadline)
        except (OverflowError, ValueError):
            raise BadInput("field deadline: not a number of seconds that ends in this calendar") from None
    if deadline.tzinfo is None:
        raise BadInput("field deadline: has no time zone; use datetime.now(UTC), or seconds from now")
    return deadline.astimezone(UTC).isoformat(timespec="milliseconds")


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
