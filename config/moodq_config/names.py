"""Names both ends of the queue must agree on: queues, keys, the one registered function."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

#: The only function a worker runs. It is a name in a registry, not an import path: nothing is imported.
JOB_FUNCTION = "moodq.run"

#: What processes call themselves in logs and traces (``service.name``).
WORKER_SERVICE, GATEWAY_SERVICE, PRODUCER_SERVICE = "moodq-worker", "moodq-gateway", "moodq"

INTERACTIVE = "interactive"
BULK = "bulk"

RESULT_PREFIX = "moodq:result:"
EVENTS_PREFIX = "moodq:events:"

#: Hashes of the result cache: a text's digest to what was answered.
CACHE_YOUNG, CACHE_OLD = "moodq:cache:young", "moodq:cache:old"

#: Hash of labels that people have pinned to templates, and the number that counts its changes.
PINS_KEY, PINS_REVISION_KEY = "moodq:pins", "moodq:pins:revision"

#: Hash of what Redis uses and its own limit, in bytes, as producers last read it; lives for a moment.
MEMORY_KEY = "moodq:memory"
RATE_PREFIX = "moodq:rate:"

CONVERSATION_PREFIX, TAKEOVER_PREFIX = "moodq:conversation:", "moodq:takeover:"
ROUTE_PREFIX, ROUTED_PREFIX = "moodq:route:", "moodq:routed:"

#: Channel on which the id of a cancelled item is published, for the worker that has it in hand.
CANCEL_CHANNEL = "moodq:cancel"
#: Channel on which the id of a conversation is published that a person has taken over.
TAKEOVER_CHANNEL = "moodq:takeover"

#: Field of a failed job's hash: JSON of {code, message, attempts}.
FAILURE_FIELD = "moodq_failure"

#: Field of RQ's job hash in which claims count how often the job was started.
ATTEMPTS_FIELD = "moodq_attempts"

#: What a living worker tells of itself, as JSON (``worker_info``).
WORKER_INFO_PREFIX = "moodq:worker:"

#: Sorted set of callbacks that the gateway owes, by when each is to be looked at, and a hash for each.
CALLBACKS_KEY, CALLBACK_PREFIX = "moodq:callbacks", "moodq:callback:"

#: String that holds the job an item of a batch is in, for who asks after it by its own id.
QUEUED_PREFIX = "moodq:queued:"

#: Ids RQ takes for a job; an item's may have dots too.
_JOB_ID = re.compile(r"[A-Za-z0-9_\-]+")


def job_id(item_ids: Sequence[str], prefix: str = "") -> str:
    """A single item's job has the item's id; any other gets one that follows from its items, so that the
    same chunk sent again is known. RQ allows fewer characters than an item's id may have."""
    if len(item_ids) == 1 and _JOB_ID.fullmatch(item_ids[0]):
        return item_ids[0]
    digest = hashlib.sha256("\n".join(item_ids).encode()).hexdigest()[:32]
    return f"{prefix}{'item' if len(item_ids) == 1 else 'chunk'}-{digest}"


def result_key(item_id: str) -> str:
    """The string key that holds an item's result as JSON, with a TTL."""
    return RESULT_PREFIX + item_id


def queued_key(item_id: str) -> str:
    """The string key that holds the id of the job that an item of a batch is in."""
    return QUEUED_PREFIX + item_id


def callback_key(name: str) -> str:
    """The hash that holds one callback that is owed."""
    return CALLBACK_PREFIX + name


def worker_info_key(worker: str) -> str:
    """The string key that holds what a worker of this name tells of itself, with a short TTL."""
    return WORKER_INFO_PREFIX + worker


def rate_key(client: str) -> str:
    """The string key that holds when a client of limited rate will have paid for what it sent."""
    return RATE_PREFIX + client


def remote_key(day: str) -> str:
    """The hash that counts what the hand-off has cost on ``day`` (ISO date, UTC)."""
    return f"moodq:remote:{day}"


def events_key(item_id: str) -> str:
    """The capped stream that gets one entry per event of an item: ``label``, ``token``, ``done``.

    A reader that starts at id ``0`` sees events from before it came, so a wait cannot miss the end.
    """
    return EVENTS_PREFIX + item_id


def conversation_key(id: str) -> str:
    """The list that holds the turns of a conversation as JSON, with a TTL."""
    return CONVERSATION_PREFIX + id


def route_key(route: str) -> str:
    """The list that holds the messages sent to ``route`` as JSON, the oldest first, with a TTL."""
    return ROUTE_PREFIX + route


def takeover_key(id: str) -> str:
    """The string key that is there while a person answers in a conversation, with a TTL."""
    return TAKEOVER_PREFIX + id
