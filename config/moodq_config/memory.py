"""How much of Redis may be filled: the shares of ``MOODQ_MAX_REDIS_MB``, and what ``moodq config`` shows.

Producers look at the server's used memory when they enqueue, workers before they claim. The shares are in an
order that cannot stand still: what waits in queues stays below what stops claiming, and what workers write
expires. ``docs/adr/013-redis-memory.md`` has the reasons and the measurements.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from moodq_config.settings import Settings

MIB = 2**20

#: Parts of the limit: above the first of each pair a producer is refused, or a worker stops claiming, on the
#: first queue; above the second on all others. What is left over is for the texts workers have in hand.
ENQUEUE_SHARES = (0.80, 0.50)
CLAIM_SHARES = (0.95, 0.70)

#: Bytes of Redis, the larger of Valkey 9 and Redis 7 as they come: a waiting job beside its data, what it
#: leaves when it has ended, one item's result and events beside its metadata (which is in both), one token of
#: a reply in the events, a remembered answer beside itself. A server with ``stream-node-max-bytes 512`` takes
#: a third of it.
WAITING_JOB_BYTES = 1_200
ENDED_JOB_BYTES = 5_200
ITEM_BYTES = 5_400
TOKEN_BYTES = 100
CACHE_ENTRY_BYTES = 120
#: Bytes an answer may have to be remembered.
MAX_CACHED_ANSWER = 1_024
#: Data of a job of one short text, stored.
_SHORT_DATA = 160
_CHUNK = 100


@dataclass(frozen=True, slots=True)
class MemoryBound:
    """Bytes; None: no bound. The two rates are those of short texts whose results fit while they are kept."""

    bound: int | None
    first_queue_takes_jobs_below: int | None
    other_queues_take_jobs_below: int | None
    first_queue_is_claimed_below: int | None
    other_queues_are_claimed_below: int | None
    result_cache_at_most: int
    text_alone: int
    text_of_100_in_a_job: int
    texts_alone_per_s: float | None
    texts_of_100_in_a_job_per_s: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def enqueue_share(settings: Settings, queue: str) -> float:
    """The part of the limit above which ``queue`` takes no more jobs."""
    return ENQUEUE_SHARES[queue != settings.queues[0]]


def memory_bound(settings: Settings) -> MemoryBound:
    """What the settings bound Redis's memory to."""
    limit = settings.max_redis_mb * MIB or None
    per_job = WAITING_JOB_BYTES + ENDED_JOB_BYTES
    alone = per_job + _SHORT_DATA + ITEM_BYTES
    chunked = per_job // _CHUNK + _SHORT_DATA // 4 + ITEM_BYTES
    cache = settings.cache_entries * (CACHE_ENTRY_BYTES + MAX_CACHED_ANSWER) if settings.cache_ttl_s else 0

    def part(share: float) -> int | None:
        return None if limit is None else int(limit * share)

    def rate(share: float, bytes: int) -> float | None:
        return None if limit is None else round(limit * share / bytes / settings.result_ttl_s, 1)

    return MemoryBound(
        bound=limit,
        first_queue_takes_jobs_below=part(ENQUEUE_SHARES[0]),
        other_queues_take_jobs_below=part(ENQUEUE_SHARES[1]),
        first_queue_is_claimed_below=part(CLAIM_SHARES[0]),
        other_queues_are_claimed_below=part(CLAIM_SHARES[1]),
        result_cache_at_most=cache,
        text_alone=alone,
        text_of_100_in_a_job=chunked,
        texts_alone_per_s=rate(CLAIM_SHARES[0], alone),
        texts_of_100_in_a_job_per_s=rate(CLAIM_SHARES[1], chunked),
    )
