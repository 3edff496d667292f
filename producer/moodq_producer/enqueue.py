"""Into the queue, or not: the one script that enqueues a job, and what a producer does when there is no room.

``jobs`` builds what is sent, the clients send it. Pure: nothing here talks to Redis.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Literal

from rq.utils import now, utcformat

from moodq_config.errors import MoodqError, QueueFull, RateLimited
from moodq_config.memory import MIB, WAITING_JOB_BYTES, enqueue_share
from moodq_config.names import MEMORY_KEY, rate_key
from moodq_config.settings import Settings
from moodq_producer.backoff import FIRST_S, backoff_s, jittered

OnFull = Literal["raise", "wait"]

#: Seconds of its rate that a client may be ahead.
BURST_S = 1.0
#: Milliseconds one reading of the server's memory counts; what is enqueued meanwhile is added to it.
MEMORY_READ_MS = 100

# Atomic: a resubmission can neither make a second job nor slip past a limit. What is left of an earlier job
# with this id is replaced once that job has ended and its result has expired. Nothing is counted that could
# drift: the queue's length is the list's, memory is the server's own figure.
ENQUEUE_SCRIPT = """
    -- KEYS: job hash, queue, set of queues, three registries of ended jobs, the memory last read, the
    -- client's rate, then the items' result keys
    -- ARGV: job id, the nine terms, then the fields of the job hash
    local max_length, max_bytes, share = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
    local rate, burst_s, max_items = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
    local read_ms, items, bytes = ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])
    local kept = 0
    for i = 9, #KEYS do
        kept = kept + redis.call('EXISTS', KEYS[i])
    end
    if kept == #KEYS - 8 then
        return {0}
    end
    local status = redis.call('HGET', KEYS[1], 'status')
    local ended = {finished = true, failed = true, stopped = true, canceled = true}
    if status and not ended[status] then
        return {0}
    end
    local length = redis.call('LLEN', KEYS[2])
    if length >= max_length then
        return {-1, length}
    end
    if max_bytes > 0 then
        local function allowed(limit)
            if limit == 0 or limit > max_bytes then limit = max_bytes end
            return math.floor(limit * share)
        end
        local found = redis.call('HMGET', KEYS[7], 'used', 'limit')
        local used, limit = tonumber(found[1] or ''), tonumber(found[2] or '')
        if not used or not limit or used + bytes > allowed(limit) then
            local info = redis.call('INFO', 'memory')
            used = tonumber(string.match(info, 'used_memory:(%d+)'))
            limit = tonumber(string.match(info, 'maxmemory:(%d+)')) or 0
            redis.call('HSET', KEYS[7], 'used', used, 'limit', limit)
            redis.call('PEXPIRE', KEYS[7], read_ms)
        end
        if used + bytes > allowed(limit) then
            return {-2, used, allowed(limit)}
        end
    end
    if rate > 0 then
        -- GCRA: the client has paid for what it sent at this moment; it may be ahead by a burst.
        local clock = redis.call('TIME')
        local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
        local paid = tonumber(redis.call('GET', KEYS[8]) or '') or 0
        paid = math.max(now, math.min(paid, now + burst_s + max_items / rate))
        if paid - now > burst_s then
            return {-3, math.ceil((paid - now - burst_s) * 1000)}
        end
        paid = paid + items / rate
        redis.call('SET', KEYS[8], string.format('%.6f', paid), 'PX', math.ceil((paid - now) * 1000))
    end
    if status then
        -- It may have ended in another queue; who may not touch that one leaves its registries to their TTL.
        local queue = string.match(KEYS[2], '[^:]*$')
        local origin = redis.call('HGET', KEYS[1], 'origin') or queue
        redis.call('DEL', KEYS[1])
        for i = 4, 6 do
            redis.call('ZREM', KEYS[i], ARGV[1])
            if origin ~= queue then
                redis.pcall('ZREM', string.sub(KEYS[i], 1, -1 - #queue) .. origin, ARGV[1])
            end
        end
    end
    if max_bytes > 0 then
        redis.call('HINCRBY', KEYS[7], 'used', bytes)
    end
    redis.call('HSET', KEYS[1], unpack(ARGV, 11))
    redis.call('SADD', KEYS[3], KEYS[2])
    redis.call('RPUSH', KEYS[2], ARGV[1])
    return {1}
"""


class Outcome(IntEnum):
    """What ``ENQUEUE_SCRIPT`` returns first. ``KNOWN``: the job is under way, or all its results are there.
    With ``TOO_LONG`` comes the queue's length, with ``NO_MEMORY`` bytes used and allowed, with ``TOO_FAST``
    milliseconds to wait."""

    TOO_FAST = -3
    NO_MEMORY = -2
    TOO_LONG = -1
    KNOWN = 0
    ENQUEUED = 1


@dataclass(frozen=True, slots=True)
class QueuedJob:
    """A job ready to be enqueued: ``keys`` and ``fields`` are those of ``ENQUEUE_SCRIPT``; ``bytes`` its data
    as it is stored."""

    id: str
    queue: str
    item_ids: tuple[str, ...]
    keys: tuple[str, ...]
    fields: tuple[str | bytes | int, ...]
    bytes: int


class Gate:
    """The terms on which the settings let jobs in."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._terms: dict[str, tuple[float | int, ...]] = {
            queue: (
                settings.max_queue_length,
                settings.max_redis_mb * MIB,
                enqueue_share(settings, queue),
                settings.max_items_per_s,
                BURST_S,
                settings.max_items_per_job,
                MEMORY_READ_MS,
            )
            for queue in settings.queues
        }
        #: The keys of the script between those of the queue and those of the items.
        self.keys = (MEMORY_KEY, rate_key(settings.client_name))

    def script_args(self, job: QueuedJob) -> list[str | bytes | int | float]:
        """``ARGV`` of the script; the queue time counts from now."""
        terms = *self._terms[job.queue], len(job.item_ids), job.bytes + WAITING_JOB_BYTES
        return [job.id, *terms, *job.fields, "enqueued_at", utcformat(now())]

    def refusal(self, queue: str, reply: Sequence[int]) -> MoodqError | None:
        """The error that a reply of the script means; None when the job is in, or was."""
        settings = self.settings
        if reply[0] == Outcome.TOO_LONG:
            return QueueFull(
                f"queue {queue!r} holds {reply[1]} jobs, the limit is {settings.max_queue_length}; try again "
                "later, start more workers, or raise MOODQ_MAX_QUEUE_LENGTH"
            )
        if reply[0] == Outcome.NO_MEMORY:
            return QueueFull(
                f"Redis uses {reply[1] / MIB:.1f} MiB, queue {queue!r} takes jobs up to "
                f"{reply[2] / MIB:.1f}; try again when results have expired, shorten MOODQ_RESULT_TTL_S, "
                "or raise MOODQ_MAX_REDIS_MB (and Redis's own maxmemory)"
            )
        if reply[0] == Outcome.TOO_FAST:
            wait_s = reply[1] / 1000
            return RateLimited(
                f"client {settings.client_name!r} sends more than {settings.max_items_per_s:g} items a "
                f"second; try again in {wait_s:.3f} s, or raise MOODQ_MAX_ITEMS_PER_S",
                retry_after_s=wait_s,
            )
        return None


def no_memory(info: Mapping[str, Any]) -> list[int]:
    """The reply that the script would have given, had Redis had the memory to run it; from INFO memory."""
    return [Outcome.NO_MEMORY, int(info["used_memory"]), int(info["maxmemory"])]


class Admission:
    """Jobs of one queue on their way in: which to send now, and how long to wait when they are refused.

    With ``on_full`` ``wait`` a refused job is tried again until ``timeout_s`` (None: without end) have passed
    in which none got in; with None the settings say both. While there is no room one job is sent to ask, not
    all of them.
    """

    def __init__(
        self, gate: Gate, jobs: Sequence[QueuedJob], on_full: OnFull | None, timeout_s: float | None
    ) -> None:
        self._gate = gate
        self._left = list(jobs)
        if on_full is None:
            on_full = gate.settings.on_full
            timeout_s = gate.settings.full_timeout_s if timeout_s is None else timeout_s
        self._on_full = on_full
        self._timeout_s = math.inf if timeout_s is None else timeout_s
        self._refused = 0
        self._since = time.monotonic()

    def next(self) -> list[QueuedJob]:
        """What to send now; empty when all are in."""
        return self._left[:1] if self._refused else self._left

    def answered(self, replies: Sequence[Any]) -> float:
        """Take the script's reply to each job of ``next``; returns the seconds to wait before the next ones.
        Raises ``QueueFull`` or ``RateLimited``."""
        sent = self._left[: len(replies)]
        errors = [self._gate.refusal(job.queue, reply) for job, reply in zip(sent, replies, strict=True)]
        refused = [job for job, error in zip(sent, errors, strict=True) if error is not None]
        self._left = refused + self._left[len(replies) :]
        if len(refused) < len(sent):
            self._refused, self._since = 0, time.monotonic()
        if not refused:
            return 0.0
        error = next(error for error in errors if error is not None)
        self._refused += 1
        pause_s = self._pause_s(error)
        left_s = self._since + self._timeout_s - time.monotonic()
        if self._on_full == "raise" or left_s <= 0:
            raise error
        return min(pause_s, left_s)

    def _pause_s(self, error: MoodqError) -> float:
        if isinstance(error, RateLimited):
            return error.retry_after_s + jittered(FIRST_S)
        return backoff_s(self._refused)
