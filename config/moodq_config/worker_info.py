"""What a living worker tells of itself in Redis: where its metrics are, what it runs, what it has done.

The worker writes it every few seconds, with a TTL, as JSON under ``worker_info_key``. ``moodq top``, ``moodq
exporter`` and Prometheus's discovery read it. Counts begin with the worker: a rate is the difference of two
readings by that of their ``at``.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from moodq_config.contracts import ModelRef

#: Seconds between two writings, and after which a worker that writes no more is forgotten.
EVERY_S, TTL_S = 2.0, 15
#: Bytes of one worker's JSON at most; a longer one is not a worker's.
MAX_BYTES = 64 * 1024

#: What Prometheus asks for metrics: host and port, nothing that could lead elsewhere.
Address = Annotated[str, Field(pattern=r"^(?:[A-Za-z0-9._\-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):[0-9]{1,5}$")]
Count = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Told(BaseModel):
    """A reader ignores fields that a newer worker may add."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Outcomes(Told):
    """Items of one task by outcome."""

    done: Count = 0
    failed: Count = 0


class Latencies(Told):
    """From enqueueing to the result, by queue: items of each bucket by itself. ``bounds`` are the buckets'
    upper ends in seconds; the last bucket, one more than there are bounds, has none."""

    bounds: tuple[Seconds, ...] = ()
    queues: dict[str, tuple[Count, ...]] = {}


class WorkerInfo(Told):
    """Times are unix seconds, ``*_s`` seconds; counts are items since the worker began."""

    v: Literal[1] = 1
    at: float
    started_at: float
    metrics: Address | None = None
    queues: tuple[str, ...] = ()
    model: ModelRef | None = None
    waiting: Count = 0
    running: Count = 0
    rss_bytes: Count = 0
    engine_s: Seconds = 0.0
    job_cost_s: dict[str, Seconds] = {}
    items: dict[str, Outcomes] = {}
    labels: dict[str, dict[str, Count]] = {}
    latencies: Latencies = Latencies()
