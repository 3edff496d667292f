"""The RQ job as this worker reads it: data from Redis is data, never code.

RQ's own ``Job`` imports the function and callbacks a hash names, unpickles if told to, inflates without a
limit and sends webhooks. Anyone who can write to Redis could so run code or requests in the worker. This
class resolves one registered name and imports nothing. Stands between ``rq_worker`` (claim) and ``intake``.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn

from redis import Redis
from redis.client import Pipeline
from rq.exceptions import TimeoutFormatError
from rq.job import JOB_ID_PATTERN, Job, JobStatus
from rq.queue import Queue
from rq.utils import decode_redis_hash, now

from moodq_config.contracts import payload_context, payload_items
from moodq_config.errors import BadInput, ErrorCode, MoodqError
from moodq_config.names import JOB_FUNCTION
from moodq_config.trace_context import NO_CONTEXT

MIB = 2**20
#: Between two attempts or repeats of a job; a year, as for a TTL.
LONGEST_INTERVAL_S = 31_536_000

#: Hash fields never handed to RQ's reader: it inflates one without a limit and sends HTTP for the other.
_NEVER_READ = frozenset({"data", "exc_info", "webhooks"})

#: What RQ's reader raises when a field of the hash is not of its kind.
_UNREADABLE = (
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    LookupError,
    OverflowError,
    RecursionError,
    TimeoutFormatError,
)

_PICKLE_MARK = b"\x80"


class SafeJSONSerializer:
    """JSON in UTF-8, for RQ. An invalid byte becomes a lone surrogate: it spoils the one string it is in,
    which is then refused as ``invalid_utf8``, and not the job around it."""

    @staticmethod
    def dumps(obj: Any, /) -> bytes:
        return json.dumps(obj, ensure_ascii=False).encode("utf-8", "backslashreplace")

    @staticmethod
    def loads(data: bytes, /) -> Any:
        return json.loads(data.decode("utf-8", "surrogateescape"), parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


@dataclass(frozen=True, slots=True)
class JobLimits:
    """What a job may hold and ask for; from the settings. ``max_bytes`` of its data once inflated;
    ``max_result_ttl_s`` and ``max_failure_ttl_s`` for how long it is kept once it has ended."""

    max_bytes: int = 32 * MIB
    max_result_ttl_s: int = 86_400
    max_failure_ttl_s: int = 86_400


class MoodqJob(Job):
    """An RQ job that is read and finished, but never performed.

    ``refusal`` says why its hash cannot be read; the job can still be failed in RQ's registries.
    """

    limits = JobLimits()
    #: Seconds before a retry of a job that brings no intervals of its own.
    backoff_s = 0.0
    #: Why the job failed, and at which attempt, to be noted in its hash.
    failure: MoodqError | None = None
    attempt = 0
    #: What it says beside its items, once ``read_payload`` has read it.
    context = NO_CONTEXT

    def __init__(
        self,
        id: str | None = None,
        connection: Redis | None = None,
        serializer: Any = None,
        limits: JobLimits | None = None,
    ) -> None:
        # RQ raises on an id it does not allow; such a job must be refused, it must not end the worker.
        usable = id is None or JOB_ID_PATTERN.fullmatch(id) is not None
        super().__init__(id if usable else None, connection=connection, serializer=SafeJSONSerializer)
        self.refusal: BadInput | None = None
        self._stored_data: bytes | None = None
        if limits is not None:
            self.limits = limits
        if not usable:
            self._id = id

    def restore(self, raw_data: Any) -> None:
        """Fill in from the hash. Never raises: what cannot be read is told in ``refusal``."""
        self.refusal = None
        try:
            fields = decode_redis_hash(raw_data)
            super().restore(
                {name: value for name, value in fields.items() if name not in _NEVER_READ} | {"data": b""}
            )
            self._check_json_fields()
        except _UNREADABLE as error:
            self.refusal = BadInput(
                f"a field of the job's hash cannot be read ({type(error).__name__}); "
                "write the hash as docs/protocol.md shows",
                code=ErrorCode.BROKEN_JSON,
            )
        self.result_ttl = _bounded(self.result_ttl, self.limits.max_result_ttl_s)
        self.failure_ttl = _bounded(self.failure_ttl, self.limits.max_failure_ttl_s)
        stored = raw_data.get(b"data", raw_data.get("data", b""))
        self._stored_data = stored
        try:
            self.data = inflate(stored, self.limits.max_bytes)
        except BadInput as error:
            self.data = b""
            self.refusal = error

    def _check_json_fields(self) -> None:
        """RQ takes any JSON for these, and raises much later, when the job ends or is tried again."""
        self.retry_intervals = self.retry_intervals or None
        self.repeat_intervals = self.repeat_intervals or None
        fit = (
            isinstance(self.meta, dict),
            self.retry_intervals is None or _are_intervals(self.retry_intervals),
            self.repeat_intervals is None or _are_intervals(self.repeat_intervals),
            isinstance(self._dependency_ids, list)
            and all(isinstance(id, str) for id in self._dependency_ids),
        )
        if not all(fit):
            self.meta, self._dependency_ids = {}, []
            self.retry_intervals = self.repeat_intervals = None
            raise TypeError("a field that holds JSON holds another kind")

    def to_dict(self, include_meta: bool = True, include_result: bool = True) -> dict[str, Any]:
        """The hash to store. The data stays as it was sent, also when it was refused."""
        fields: dict[str, Any] = super().to_dict(include_meta=include_meta, include_result=include_result)
        if self._stored_data is not None:
            fields["data"] = self._stored_data
        return fields

    def get_retry_interval(self) -> Any:
        """Seconds: those of RQ's ``Retry(interval=…)``, or ours; a ``Retry`` without interval has a 0."""
        return super().get_retry_interval() if any(self.retry_intervals or ()) else self.backoff_s

    def retry(self, queue: Queue, pipeline: Pipeline) -> None:
        """RQ's, but all of it in the closing transaction: RQ writes the status ``scheduled`` before, and a
        worker that died in between would leave a job that is neither scheduled nor taken over."""
        interval_s = self.get_retry_interval()
        if not interval_s:
            super().retry(queue, pipeline)
            return
        self.retries_left = (self.retries_left or 0) - 1
        self.set_status(JobStatus.SCHEDULED, pipeline=pipeline)
        queue.schedule_job(self, now() + timedelta(seconds=interval_s), pipeline=pipeline)

    @property
    def names_callback(self) -> bool:
        """Whether the hash asks for a callback, which this worker never runs."""
        return bool(self._success_callback_name or self._failure_callback_name or self._stopped_callback_name)

    @property
    def func(self) -> NoReturn:
        raise _unknown_function("a function to import")

    @property
    def success_callback(self) -> None:
        return None

    @property
    def failure_callback(self) -> None:
        return None

    @property
    def stopped_callback(self) -> None:
        return None

    def send_webhooks(self, status: Any, *, exc_string: str | None = None) -> None:
        """Nothing: an entry in Redis must not make the worker send requests."""

    def perform(self) -> NoReturn:
        raise _unknown_function("to be performed as a Python call")

    def __str__(self) -> str:
        # RQ's own shows the description, which may repeat the text.
        return f"<{type(self).__name__} {self.id}>"


def read_payload(job: MoodqJob, max_items: int) -> list[object]:
    """The raw items of ``job``; its ``context`` is known from then on.

    Raises ``BadInput``: unknown_function (another function, or callbacks), broken_json (no JSON, a pickle,
    not of the shape), job_too_large, wrong_version, too_many_items.
    """
    if job.refusal is not None:
        raise job.refusal
    if job.names_callback:
        raise _unknown_function("callbacks")
    function, instance, args, kwargs = _parts(job.data)
    if function != JOB_FUNCTION:
        shown = repr(function[:80]) if isinstance(function, str) else "something that is no name"
        raise _unknown_function(shown)
    if instance is not None or kwargs:
        raise _not_the_shape("instance must be null and kwargs {}")
    items = payload_items(args, max_items)
    job.context = payload_context(args)
    return items


def _parts(data: bytes) -> list[Any]:
    if data.startswith(_PICKLE_MARK):
        raise _not_the_shape("it is pickled, and a pickle is never read; use RQ's JSON serializer")
    try:
        parts = SafeJSONSerializer.loads(data)
    except (ValueError, RecursionError) as error:
        raise _not_the_shape(f"it is not JSON ({type(error).__name__})") from None
    if not isinstance(parts, list) or len(parts) != 4:
        raise _not_the_shape("it is not a list of 4")
    return parts


def inflate(stored: bytes, max_bytes: int) -> bytes:
    """A job's data, decompressed if it is compressed. Raises ``BadInput`` (job_too_large) over the limit."""
    if len(stored) > max_bytes:
        raise _too_large(max_bytes)
    machine = zlib.decompressobj()
    try:
        data = machine.decompress(stored, max_bytes)
        whole = machine.eof or bool(machine.unconsumed_tail)
    except zlib.error:
        whole = False
    if not whole:
        return stored  # RQ takes uncompressed data as well; this is as long as it is
    if machine.unconsumed_tail:
        raise _too_large(max_bytes)
    return data


def _too_large(max_bytes: int) -> BadInput:
    return BadInput(
        f"job data has more than {max_bytes // MIB} MiB, the limit; send several smaller jobs, or raise "
        "MOODQ_MAX_JOB_MB on producer and worker",
        code=ErrorCode.JOB_TOO_LARGE,
    )


def _are_intervals(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(seconds, int | float) and 0 <= seconds <= LONGEST_INTERVAL_S for seconds in value
    )


def _bounded(ttl_s: int | None, most_s: int) -> int | None:
    """A TTL as asked for, but not for ever (negative, to RQ), and not so long that Redis refuses it."""
    return most_s if ttl_s is not None and not 0 <= ttl_s <= most_s else ttl_s


def _not_the_shape(what: str) -> BadInput:
    return BadInput(
        f'job data must be JSON ["{JOB_FUNCTION}", null, [{{"v": 1, "items": [...]}}], {{}}]: {what}; '
        "see docs/protocol.md",
        code=ErrorCode.BROKEN_JSON,
    )


def _unknown_function(what: str) -> BadInput:
    return BadInput(
        f"this worker runs only {JOB_FUNCTION!r}, the job names {what}; nothing was imported or run",
        code=ErrorCode.UNKNOWN_FUNCTION,
    )
