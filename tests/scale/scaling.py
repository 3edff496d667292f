"""How the speed grows with the hosts, and how evenly they share the work."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from moodq_config.tasks import load_tasks
from moodq_worker.engine_fake import Cost, FakeEngine
from moodq_worker.replies import SUFFIX_TOKENS

from .cluster import BATCH_TOKENS, COST, NO_SETTINGS, Cluster

TASK = "sentiment"
PASSES = 25
#: Seconds between the last start of a worker and the window in which is counted.
SETTLE_S = 1.5
#: Seconds of its own work that a worker takes in hand, and a little more.
HELD_S = 2.0
#: Jobs that wait before a window begins, for each second and host of it: more than can be done.
JOBS_PER_HOST_S = 450


@dataclass(frozen=True, slots=True)
class Point:
    """One measured window. ``least_share``: what the least busy worker did, of an even share."""

    hosts: int
    round_trip_ms: float
    items_per_job: int
    items_per_s: float
    least_share: float
    most_share: float


def text(number: int) -> str:
    """Distinct, of 32 bytes, which the fake engine takes for tokens."""
    return f"parcel {number:08d} came days late"


def slept_passes() -> list[float]:
    """Seconds of a pass of the sleeping engine over 1, 2, … texts, up to a full batch: it sleeps a little
    longer than it is told. Other work on the machine can only make it more, so the least counts."""
    engine = FakeEngine(COST)
    engine.use_tasks(load_tasks())
    tokens = engine.encode([text(0)])[0]
    fit = BATCH_TOKENS // (len(tokens) + SUFFIX_TOKENS)
    found = []
    for texts in range(1, fit + 1):
        taken = []
        for _ in range(PASSES):
            began = time.perf_counter()
            engine.label([TASK], "en", [tokens] * texts)
            taken.append(time.perf_counter() - began)
        found.append(min(taken))
    return found


def scale_out(
    counts: tuple[int, ...],
    round_trip_ms: float,
    *,
    seconds: float,
    cost: Cost | None = COST,
    items_per_job: int = 1,
    most_per_host_s: float = JOBS_PER_HOST_S,
    settings: Mapping[str, str] = NO_SETTINGS,
) -> Iterator[tuple[Point, str]]:
    """Points for growing numbers of hosts on one server: they join while the others work. With each, what
    makes the delay. ``cost`` None: the real engine; a host then can do at most ``most_per_host_s``."""
    numbers = itertools.count()
    with Cluster(settings, cost=cost, round_trip_ms=round_trip_ms) as cluster, cluster.client() as client:
        for count in counts:
            cluster.start(count - len(cluster.workers))
            wanted = int(most_per_host_s * count * (seconds + SETTLE_S + HELD_S)) // items_per_job
            missing = max(0, wanted - cluster.redis.llen("rq:queue:bulk"))
            texts = (text(next(numbers)) for _ in range(missing * items_per_job))
            for _ in client.submit_many(texts, [TASK], queue="bulk", chunk=items_per_job):
                pass
            time.sleep(SETTLE_S)
            yield _window(cluster, count, round_trip_ms, items_per_job, seconds), cluster.delayed_by
            if not cluster.redis.llen("rq:queue:bulk"):
                raise RuntimeError("the queue ran empty: what was measured is not the workers' speed")
        cluster.redis.delete("rq:queue:bulk")


def _window(cluster: Cluster, count: int, away_ms: float, items_per_job: int, seconds: float) -> Point:
    before, began = cluster.done(), time.perf_counter()
    time.sleep(seconds)
    after, ended = cluster.done(), time.perf_counter()
    shares = [after[name] - before[name] for name in after]
    even = sum(shares) / count
    return Point(
        hosts=count,
        round_trip_ms=away_ms,
        items_per_job=items_per_job,
        items_per_s=round(sum(shares) * items_per_job / (ended - began), 1),
        least_share=round(min(shares) / even, 3),
        most_share=round(max(shares) / even, 3),
    )
