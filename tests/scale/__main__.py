"""``make scale``: several hosts on one server; prints tables and writes ``build/scale/latest.json``,
and ``docs/scale.md`` with the simulation beside what was measured.

Exit code 1 when two hosts do less than 1.9 times what one does, or four less than 3.6 times, when a worker's
share is uneven, when a host that was cut off is not replaced within a minute, or when a text is lost or
written twice, or when the simulation is too far from what was measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from moodq_config.settings import load_settings

from .cluster import BATCH_TOKENS, COST
from .hosts import refusal
from .hosts_lost import come_and_go, take_over
from .page import write_page
from .scaling import Point, scale_out, slept_passes
from .server_cost import server_costs

LATEST = Path("build/scale/latest.json")
COUNTS = (1, 2, 4)
#: Hosts, and how many times the speed of one they must have.
GOALS = {2: 1.9, 4: 3.6}
DELAYS_MS = (0.0, 2.0, 20.0)
CHUNK = 20
#: Part of an even share that the least busy worker must have.
LEAST_SHARE = 0.9
TAKE_OVER_S = 60.0
REAL_PER_S = 150.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.scale", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of throughput; a figure is the median")
    parser.add_argument("--seconds", type=float, default=6.0, help="of one window")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="a part; may be repeated")
    asked = parser.parse_args()
    if missing := refusal():
        sys.stderr.write(f"scale: {missing}\n")
        return 2
    console = Console()
    failures: list[str] = []
    for name in asked.only or PARTS:
        console.print(f"{name} …", style="dim")
        part = PARTS[name](asked, console, failures)
        document = _before() | {name: part}
        document["at"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        _write(document)
    failures += write_page(_before())
    for failure in failures:
        console.print(failure, style="red", markup=False, highlight=False)
    return 1 if failures else 0


def throughput(asked: Any, console: Console, failures: list[str]) -> dict[str, Any]:
    """The speed of 1, 2 and 4 hosts at each distance, with an engine that sleeps."""
    found: dict[tuple[float, int, int], list[Point]] = {}
    delayed_by = ""
    for _ in range(asked.rounds):
        ways = [(ms, 1) for ms in DELAYS_MS] + [(0.0, CHUNK)]
        for ms, per_job in ways:
            for point, by in scale_out(COUNTS, ms, seconds=asked.seconds, items_per_job=per_job):
                found.setdefault((ms, per_job, point.hosts), []).append(point)
                delayed_by = by or delayed_by
    table = _titled("hosts", "round trip ms", "items a job", "items/s", "× one", "least share", "most share")
    rows = []
    for (ms, per_job, hosts), points in found.items():
        times = statistics.median(
            point.items_per_s / one.items_per_s
            for point, one in zip(points, found[ms, per_job, 1], strict=True)
        )
        middle = [
            statistics.median(getattr(point, name) for point in points)
            for name in ("items_per_s", "least_share", "most_share")
        ]
        names = ("hosts", "round_trip_ms", "items_per_job", "items_per_s", "least_share", "most_share")
        rows.append({**dict(zip(names, (hosts, ms, per_job, *middle), strict=True)), "times_one": times})
        speed, least, most = middle
        table.add_row(*_cells(hosts, ms, per_job, speed, f"{times:.2f}", least, most))
        if per_job == 1 and times < GOALS.get(hosts, 0.0):
            failures.append(f"{hosts} hosts, {ms:g} ms: {times:.2f} × one, the goal is {GOALS[hosts]}")
        if least < LEAST_SHARE:
            failures.append(f"{hosts} hosts, {ms:g} ms: a worker has {least:.2f} of an even share")
    console.print(table)
    rounds = [asdict(point) for points in found.values() for point in points]
    return {"cost": asdict(COST), "batch_tokens": BATCH_TOKENS, "delayed_by": delayed_by, "points": rows,
            "rounds": rounds}  # fmt: skip


def takeover(asked: Any, console: Console, failures: list[str]) -> dict[str, Any]:
    """A host cut off in mid-work, with the shipped lease."""
    found = take_over(load_settings().lease_s)
    console.print(
        f"  a host that held {found.held} jobs was cut off; {found.seconds:.1f} s later others had done "
        f"them (lease {found.lease_s:g} s). Back on the cable it worked again after {found.back_s:.1f} s, "
        f"and what it still had of them was refused: {found.refused}. {_told(asdict(found.account))}"
    )
    if found.seconds > TAKE_OVER_S:
        failures.append(f"takeover took {found.seconds:.1f} s, the goal is {TAKE_OVER_S:g}")
    if not found.account.clean or not found.held:
        failures.append(f"takeover: {found.account}")
    return found.as_dict()


def coming_and_going(asked: Any, console: Console, failures: list[str]) -> dict[str, Any]:
    """Hosts leave in every way and are replaced, under load."""
    found = come_and_go(30.0)
    harms = ", ".join(f"{count} {harm}" for harm, count in found["harms"].items())
    console.print(f"  {found['hosts']} hosts; {harms}. {_told(found['account'])}")
    if not found["clean"]:
        failures.append(f"hosts that come and go: {found['account']}")
    return found


def real_engine(asked: Any, console: Console, failures: list[str]) -> dict[str, Any]:
    """The real model as far as the cores allow: workers of one thread each, and one with two."""
    from moodq_worker.model_store import resolve

    settings = load_settings()
    resolve(settings)
    shared = {"MOODQ_DATA_DIR": str(settings.data_dir), "MOODQ_WARM_TASKS": "sentiment"}
    table = _titled("workers", "threads each", "items/s")
    rows = []
    for threads, counts in ((1, (1, 2)), (2, (1,))):
        points = scale_out(
            counts, 0.0, seconds=2 * asked.seconds, cost=None, most_per_host_s=REAL_PER_S,
            settings=shared | {"MOODQ_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        for point, _ in points:
            rows.append({"workers": point.hosts, "threads": threads, "items_per_s": point.items_per_s})
            table.add_row(*_cells(*rows[-1].values()))
    console.print(table)
    return {"points": rows}


def server(asked: Any, console: Console, failures: list[str]) -> dict[str, Any]:
    """What a job costs the server, and a pass the sleeping engine: all that the simulation is told."""
    costs = [cost.as_dict() for cost in server_costs()]
    table = _titled("texts a job", "step", "script µs", "job µs", "commands", "bytes in", "bytes out")
    for cost in costs:
        for step in ("enqueue", "claim", "renew", "finish", "read"):
            one = cost[step]
            times = (round(one["script_s"] * 1e6, 1), round(one["job_s"] * 1e6, 1))
            moved = (round(one["commands"], 1), round(one["bytes_in"]), round(one["bytes_out"]))
            table.add_row(*_cells(cost["items"], step, *times, *moved))
    console.print(table)
    return {"costs": costs, "slept_pass_s": slept_passes()}


PARTS = {
    "throughput": throughput,
    "takeover": takeover,
    "coming and going": coming_and_going,
    "real engine": real_engine,
    "server": server,
}


def _told(account: dict[str, Any]) -> str:
    return (
        f"Of {account['items']} texts {account['lost']} lost, {account['failed']} failed, "
        f"{account['changed']} changed, {account['written_twice']} written twice."
    )


def _titled(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _cells(*values: object) -> Iterable[str]:
    return (f"{value:g}" if isinstance(value, float) else str(value) for value in values)


def _before() -> dict[str, Any]:
    """What an earlier run has measured: a run of one part keeps the others."""
    return dict(json.loads(LATEST.read_text("utf-8"))) if LATEST.is_file() else {}


def _write(document: dict[str, Any]) -> None:
    LATEST.parent.mkdir(parents=True, exist_ok=True)
    unfinished = LATEST.with_suffix(".tmp")
    unfinished.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", "utf-8")
    unfinished.replace(LATEST)


if __name__ == "__main__":
    sys.exit(main())
