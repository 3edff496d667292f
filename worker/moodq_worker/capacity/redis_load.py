"""What a rate asks of Redis: memory while results are kept, commands, bytes, and the time of its one thread.

The figures for a job are of ``make scale`` (``docs/scale.md``): all commands of its way, those within
scripts too, on the embedded server with append-only persistence.
"""

from __future__ import annotations

from dataclasses import dataclass

from moodq_config.memory import CLAIM_SHARES, ENDED_JOB_BYTES, ITEM_BYTES, MIB, TOKEN_BYTES, WAITING_JOB_BYTES
from moodq_config.settings import Settings

#: Of a job, and of each text in it: seconds of the server's thread, commands, bytes in and out.
JOB_SECONDS, ITEM_SECONDS = 2.0e-4, 3.7e-5
JOB_COMMANDS, ITEM_COMMANDS = 34.0, 4.0
JOB_BYTES, ITEM_BYTES_MOVED = 2_600.0, 1_370.0
#: Of a token of a reply, which is an event of its own.
TOKEN_SECONDS, TOKEN_COMMANDS, TOKEN_BYTES_MOVED = 1.5e-5, 1.0, 180.0
#: Part of the server's thread that may be busy: beyond it, waits at the server grow.
MOST_BUSY = 0.7


@dataclass(frozen=True, slots=True)
class RedisLoad:
    """``memory_mb``: MiB that results take while they are kept; ``needed_mb``: what MOODQ_MAX_REDIS_MB must
    be for workers not to wait. ``busy``: part of one thread of the server. ``servers``: that many, each with
    its own workers and producers, keep it below ``MOST_BUSY``."""

    memory_mb: float
    needed_mb: float
    allowed_mb: float
    commands_per_s: float
    mbit_per_s: float
    busy: float
    servers: int


def redis_load(settings: Settings, per_s: float, items_per_job: int, reply_tokens: float) -> RedisLoad:
    """``reply_tokens``: mean tokens written for a text; they are followed in jobs of one text only."""
    followed = reply_tokens if items_per_job == 1 else 0.0
    jobs = per_s / items_per_job
    kept = (WAITING_JOB_BYTES + ENDED_JOB_BYTES) / items_per_job + ITEM_BYTES + followed * TOKEN_BYTES
    memory = per_s * settings.result_ttl_s * kept / MIB
    busy = jobs * JOB_SECONDS + per_s * (ITEM_SECONDS + followed * TOKEN_SECONDS)
    moved = jobs * JOB_BYTES + per_s * (ITEM_BYTES_MOVED + followed * TOKEN_BYTES_MOVED)
    # Of the queue with the lower share: jobs of several texts are bulk.
    share = CLAIM_SHARES[items_per_job > 1]
    return RedisLoad(
        memory_mb=memory,
        needed_mb=memory / share,
        allowed_mb=float(settings.max_redis_mb),
        commands_per_s=jobs * JOB_COMMANDS + per_s * (ITEM_COMMANDS + followed * TOKEN_COMMANDS),
        mbit_per_s=moved * 8 / 1e6,
        busy=busy,
        servers=max(1, -int(-busy // MOST_BUSY)),
    )
