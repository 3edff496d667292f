"""Every error of moodq, in one tree, each with a code that never changes its meaning.

    MoodqError
    ├── ConfigError            a setting, tasks file or command line is wrong      (exit 2)
    ├── BadInput               the item or job is wrong; a retry cannot help       (exit 3)
    ├── Unavailable            Redis, a worker or a port is not there, or not now  (exit 4)
    │   └── QueueFull          the queue, or the memory of Redis, is at its limit
    │       └── RateLimited    this client sends more than it may
    ├── ModelError             the model cannot be fetched, read or run            (exit 5)
    ├── ItemFailed             the result says that the item failed                (exit 3)
    └── WaitTimeout            no result within the time the caller gave           (exit 6)

The public message says what is wrong, the limit, and what to do. The cause (``__cause__``) is for
the log only and is never sent to a producer.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Stable codes: they appear in results, metrics, logs and the failed registry."""

    # the item
    EMPTY_TEXT = "empty_text"
    TEXT_TOO_LONG = "text_too_long"
    INVALID_UTF8 = "invalid_utf8"
    UNKNOWN_TASK = "unknown_task"
    INVALID_FIELD = "invalid_field"
    # the job
    BROKEN_JSON = "broken_json"
    WRONG_VERSION = "wrong_version"
    UNKNOWN_FUNCTION = "unknown_function"
    TOO_MANY_ITEMS = "too_many_items"
    JOB_TOO_LARGE = "job_too_large"
    # the service
    CONFIG_INVALID = "config_invalid"
    TASKS_INVALID = "tasks_invalid"
    REDIS_UNREACHABLE = "redis_unreachable"
    PORT_TAKEN = "port_taken"
    QUEUE_FULL = "queue_full"
    RATE_LIMITED = "rate_limited"
    NO_SUCH_RESULT = "no_such_result"
    NO_SUCH_JOB = "no_such_job"
    WAIT_TIMEOUT = "wait_timeout"
    NOT_INSTALLED = "not_installed"
    MODEL_INVALID = "model_invalid"
    MODEL_DOWNLOAD = "model_download"
    WARM_UP_FAILED = "warm_up_failed"
    ENGINE_FAILED = "engine_failed"
    ENGINE_TIMEOUT = "engine_timeout"
    ANSWER_TOO_LONG = "answer_too_long"
    MAX_ATTEMPTS = "max_attempts"
    CANCELLED = "cancelled"
    DEADLINE_EXCEEDED = "deadline_exceeded"
    # the gateway
    UNAUTHORIZED = "unauthorized"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    BODY_TOO_LARGE = "body_too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    CALLBACK_REFUSED = "callback_refused"
    TOO_MANY_OPEN = "too_many_open"
    NO_WORKER = "no_worker"
    INTERNAL = "internal"


class MoodqError(Exception):
    """The root. ``code`` is stable; ``message`` may be shown to anyone; ``exit_code`` is the CLI's."""

    exit_code = 1
    default_code = ErrorCode.INTERNAL

    def __init__(self, message: str, *, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code

    def __str__(self) -> str:
        return f"{self.code}: {self.message}"


class ConfigError(MoodqError):
    exit_code = 2
    default_code = ErrorCode.CONFIG_INVALID


class BadInput(MoodqError):
    """``field`` names what is wrong and ``limit`` what it may be at most, where that is one number."""

    exit_code = 3
    default_code = ErrorCode.INVALID_FIELD

    def __init__(
        self,
        message: str,
        *,
        code: ErrorCode | None = None,
        field: str | None = None,
        limit: float | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.field = field
        self.limit = limit


class Unavailable(MoodqError):
    exit_code = 4
    default_code = ErrorCode.REDIS_UNREACHABLE


class QueueFull(Unavailable):
    default_code = ErrorCode.QUEUE_FULL


class RateLimited(QueueFull):
    """``retry_after_s``: seconds after which the same would be accepted."""

    default_code = ErrorCode.RATE_LIMITED

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ModelError(MoodqError):
    exit_code = 5
    default_code = ErrorCode.MODEL_INVALID


class ItemFailed(MoodqError):
    """``code`` is that of the result, or ``internal`` when this version does not know it."""

    exit_code = 3
    default_code = ErrorCode.ENGINE_FAILED


class WaitTimeout(MoodqError):
    exit_code = 6
    default_code = ErrorCode.WAIT_TIMEOUT


#: Codes that are nothing the sender did: somebody should look, so the item is in the failed registry by
#: itself, also when its neighbours' job went well.
TO_LOOK_AT = frozenset(
    {ErrorCode.ENGINE_FAILED, ErrorCode.ENGINE_TIMEOUT, ErrorCode.MAX_ATTEMPTS, ErrorCode.INTERNAL}
)

#: Codes that a second attempt cannot cure: such an item is never run again. All others are, with backoff, as
#: often as ``MOODQ_MAX_ATTEMPTS`` and the job's own retries allow.
NEVER_RETRIED = frozenset(
    {
        ErrorCode.EMPTY_TEXT,
        ErrorCode.TEXT_TOO_LONG,
        ErrorCode.INVALID_UTF8,
        ErrorCode.UNKNOWN_TASK,
        ErrorCode.INVALID_FIELD,
        ErrorCode.BROKEN_JSON,
        ErrorCode.WRONG_VERSION,
        ErrorCode.UNKNOWN_FUNCTION,
        ErrorCode.TOO_MANY_ITEMS,
        ErrorCode.JOB_TOO_LARGE,
        ErrorCode.ANSWER_TOO_LONG,
        ErrorCode.MAX_ATTEMPTS,
        ErrorCode.CANCELLED,
        ErrorCode.DEADLINE_EXCEEDED,
    }
)
