"""``docs/scale.md``: what was measured, the simulation beside it, and what it says of clusters nobody has here."""

# ruff: noqa: E501 - the lines of a page

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .model import Result, Setting, run

DOCS = Path("docs")
PAGE = DOCS / "scale.md"
PLOTS = DOCS / "scale"
MEASURED = PLOTS / "measured.json"
WORKERS = (1, 3, 10, 30, 100, 300, 1_000)
SHOWN = (10, 100, 1_000)
#: Ways to send: servers, texts a job.
WAYS = ((1, 1), (1, 100), (4, 100), (16, 100))
#: Texts of a pass, and its seconds, of the engines in the tables: a full batch.
NEAR_S = 0.0005
TOLERANCE = 0.15


def write_page(document: dict[str, Any]) -> list[str]:
    """Write the page when every part has been measured; returns what is wrong with the simulation."""
    if not {"throughput", "takeover", "coming and going", "server"} <= set(document):
        return []
    compared = compare(document)
    curves = {way: [_ideal(document, workers, *way) for workers in WORKERS] for way in WAYS}
    PLOTS.mkdir(exist_ok=True)
    MEASURED.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    _plot_points(compared)
    _plot_curves(curves)
    PAGE.write_text("\n".join(_lines(document, compared, curves)) + "\n", "utf-8")
    return [
        f"{point['hosts']} hosts, {point['round_trip_ms']:g} ms: {point['items_per_s']:g} measured, {found:.0f} simulated"
        for point, found in compared
        if abs(found / point["items_per_s"] - 1) > TOLERANCE
    ]


def compare(document: dict[str, Any]) -> list[tuple[dict[str, Any], float]]:
    """Each measured point with what the simulation says of it."""
    passes = document["server"]["slept_pass_s"]
    found = []
    for point in document["throughput"]["points"]:
        setting = Setting(
            workers=point["hosts"], servers=1, round_trip_s=point["round_trip_ms"] / 1e3,
            items_per_job=point["items_per_job"], fit=len(passes), pass_s=lambda texts: float(passes[texts - 1]),
            server=server_of(document, point["items_per_job"]),
        )  # fmt: skip
        found.append((point, run(setting).items_per_s))
    return found


def server_of(document: dict[str, Any], items: int) -> dict[str, Any]:
    """What a job of so many texts costs the server: between one and a hundred, on the line through both."""
    one, hundred = document["server"]["costs"]
    share = (items - 1) / 99
    steps = ("enqueue", "claim", "renew", "finish", "read")
    return {
        step: {name: one[step][name] + share * (hundred[step][name] - one[step][name]) for name in one[step]}
        for step in steps
    }


def _ideal(document: dict[str, Any], workers: int, servers: int, items_per_job: int) -> Result:
    passes = document["server"]["slept_pass_s"]
    setting = Setting(
        workers=workers, servers=servers, round_trip_s=NEAR_S, items_per_job=items_per_job, fit=len(passes),
        pass_s=lambda texts: float(passes[texts - 1]), server=server_of(document, items_per_job), producing=True,
    )  # fmt: skip
    return run(setting)


def _lines(
    document: dict[str, Any],
    compared: Sequence[tuple[dict[str, Any], float]],
    curves: dict[tuple[int, int], list[Result]],
) -> Iterable[str]:
    passes, costs = document["server"]["slept_pass_s"], document["server"]["costs"]
    each = len(passes) / passes[-1]
    moved, back = document["takeover"], document["coming and going"]
    yield f"""# Scaling out

Written by `make scale`; every figure is measured ([measured.json](scale/measured.json), {document["at"]}) or, where it says
so, simulated. Hosts are network namespaces with addresses of their own on one machine of two shared cores, the server is a
real Valkey with append-only persistence, workers are `moodq worker` with an engine that sleeps what it costs: {each:.0f}
texts/s each. The round trip is made by {"netem" if document["throughput"]["delayed_by"] == "netem" else "a delaying proxy on each host (this kernel has no netem)"}.

## One, two and four hosts
"""
    rows: list[tuple[object, ...]] = []
    for point, found in compared:
        rows.append(
            (
                point["hosts"], f"{point['round_trip_ms']:g}", point["items_per_job"], f"{point['items_per_s']:.0f}",
                f"{point['times_one']:.2f}", f"{point['least_share']:.2f}", f"{found:.0f}",
                f"{found / point['items_per_s'] - 1:+.0%}",
            )
        )  # fmt: skip
    yield from _table(
        ("hosts", "round trip, ms", "texts a job", "texts/s", "× one", "least share", "simulated", "off"),
        rows,
    )
    account = moved["account"]
    harms = ", ".join(f"{count} × {name}" for name, count in back["harms"].items())
    yield f"""
*Least share*: what the least busy worker did, of an even share; all of them pull, so none is passed over under load.

![Measured and simulated](scale/measured.svg)

## Hosts that are lost

A host that held {moved["held"]} jobs was cut off from the network in mid-work: {moved["seconds"]:.1f} s later others had done all
of them (`MOODQ_LEASE_S` {moved["lease_s"]:g}, a third more for the beat that notices). Back on the cable it worked again after
{moved["back_s"]:.1f} s; the {moved["refused"]} jobs that it then tried to finish were refused. Of {account["items"]:,} texts {account["lost"]}
were lost, {account["changed"]} changed, {account["written_twice"]} written twice.

{back["hosts"]} hosts under load, {harms}, each replaced or back: of {back["account"]["items"]:,} texts {back["account"]["lost"]} lost,
{back["account"]["changed"]} changed, {back["account"]["written_twice"]} written twice.
"""
    if real := document.get("real engine"):
        yield "## The real engine\n\nTwo cores in all, shared with the server and the producer, so this says little of hosts of their own.\n"
        yield from _table(
            ("workers", "threads each", "texts/s"),
            [(one["workers"], one["threads"], f"{one['items_per_s']:.1f}") for one in real["points"]],
        )
        yield ""
    yield "## What a job costs the server\n\nOf its one thread, by its own counters, with our clients' scripts; those within scripts count as commands. The machine is shared: with others at work on it the same steps took up to twice as long.\n"
    rows = [
        (
            cost["items"], step, f"{cost[step]['script_s'] * 1e6:.0f}", f"{cost[step]['job_s'] * 1e6:.0f}",
            f"{cost[step]['commands']:.1f}", f"{cost[step]['bytes_in']:,.0f}", f"{cost[step]['bytes_out']:,.0f}",
        )
        for cost in costs
        for step in ("enqueue", "claim", "renew", "finish", "read")
    ]  # fmt: skip
    yield from _table(
        ("texts a job", "step", "µs a script", "µs a job", "commands", "bytes in", "bytes out"), rows
    )
    one, hundred = costs
    single_s, many_s = one["server_s_by_batch"], hundred["server_s_by_batch"]
    single, many = 1 / _of(single_s, 4), 100 / _of(many_s, 4)
    kept = one["ended_bytes"], hundred["ended_bytes"] / 100
    idle = 1 / one["empty_claim_s"]
    yield f"""
So one server's thread, all of it, carries {single:,.0f} texts/s sent alone, or {many:,.0f} in jobs of 100. `renew` comes every
ten seconds for each job in hand. A text takes {kept[0]:,.0f} bytes while its result is kept, in jobs of 100 {kept[1]:,.0f}: at
those rates and the shipped hour {single * kept[0] * 3600 / 2**30:,.0f} and {many * kept[1] * 3600 / 2**30:,.0f} GiB, so **memory ends first**
unless `MOODQ_RESULT_TTL_S` is minutes, or readers `forget` what they have read. The network carries
{single * sum(one[step]["bytes_in"] + one[step]["bytes_out"] for step in ("enqueue", "claim", "finish", "read")) * 8 / 1e6:,.0f} and {many / 100 * sum(hundred[step]["bytes_in"] + hundred[step]["bytes_out"] for step in ("enqueue", "claim", "finish", "read")) * 8 / 1e6:,.0f} Mbit/s then.

## What more workers do (simulated)

Workers of {each:.0f} texts/s, 0.5 ms from servers that also take in what is done and give out the results; each server has
its own share of the workers.
"""
    rows = [
        (
            f"{workers:,}", f"{servers} server{'s' * (servers > 1)}, {items} a job",
            *_told(curves[servers, items][WORKERS.index(workers)], workers * each),
        )
        for workers in SHOWN
        for servers, items in WAYS
    ]  # fmt: skip
    yield from _table(("workers", "way", "texts/s", "of their speed", "server busy"), rows)
    yield f"""
![Texts a second by workers](scale/workers.svg)

- **10 workers** of this speed, or some {10 * each / 70:.0f} of a two-core CPU (about 70 texts/s each), want one server whatever is sent.
- **100 workers**: one server, if what can wait comes in jobs of 100 (`submit_many`, `moodq tag`); texts sent alone end at
  {single:,.0f} a second, whatever works behind.
- **1,000 workers**: several servers.
- **Where it ends**: the server's one thread, at `finish` above all: for each text its result, its event stream and their
  TTLs. Neither commands a second nor the network come near their limits first; memory does, see above.
- **Idle workers** wake together: every job that comes to an empty queue makes each of them ask, {one["empty_claim_s"] * 1e6:.0f} µs of the
  server each. {idle / 100:,.0f} jobs a second into an empty queue keep a server busy with 100 idle workers, {idle / 1000:,.0f} with 1,000: run
  as many as the load needs, not more (`moodq plan`, autoscaling by backlog).

## Sharding

moodq does not spread one queue over several servers by a hash of the ids. The figures do not call for it: a server in
front of {math.floor(many / each):,} workers of {each:.0f} texts/s is enough, and beyond that the parts need nothing of one another. A hash in the
client would have to be the same in every language that writes plain commands, would move ids when a server is added,
and would make one worker hold connections, leases and doorbells on all servers.

To use several: give each group of workers its server, and choose the server where a text is sent.

```sh
MOODQ_REDIS_URL=redis://queue-a:6379 moodq worker      # group a
MOODQ_REDIS_URL=redis://queue-b:6379 moodq worker      # group b
```

```python
from hashlib import blake2b

from moodq_config.settings import load_settings
from moodq_producer import Client

clients = [Client(load_settings(redis_url=url)) for url in ("redis://queue-a:6379", "redis://queue-b:6379")]


def client_of(id: str) -> Client:
    return clients[blake2b(id.encode(), digest_size=4).digest()[0] % len(clients)]
```

Whoever reads a result asks the server its id leads to. By tenant or by queue (imports on one server, messages on
another) is simpler still, and keeps a flood away from the other.

## The simulation

`tests/scale/model.py` (simpy): every worker's intake, loop, delivery and heartbeat, the round trip, and each server as one
thread. It is told the costs above, what a pass of the sleeping engine takes, and what one worker's Python takes for a job (`make bench`); nothing is fitted to the points it is
compared with, and `tests/scale/test_model.py` holds it within {TOLERANCE:.0%} of each. Hosts have cores of their own in it, which
these did not have; queues are never empty."""


def _of(by_batch: dict[Any, float], batch: int) -> float:
    return by_batch.get(batch) or by_batch[str(batch)]


def _told(found: Result, ideal: float) -> tuple[str, str, str]:
    return f"{found.items_per_s:,.0f}", f"{found.items_per_s / ideal:.0%}", f"{min(1.0, found.busy):.0%}"


def _table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterable[str]:
    yield "| " + " | ".join(names) + " |"
    yield "|" + "---|" * len(names)
    for row in rows:
        yield "| " + " | ".join(map(str, row)) + " |"


def _plot_points(compared: Sequence[tuple[dict[str, Any], float]]) -> None:
    figure, axes = _figure()
    for ms, mark in ((0.0, "o"), (2.0, "s"), (20.0, "^")):
        some = [
            (point, found)
            for point, found in compared
            if point["round_trip_ms"] == ms and point["items_per_job"] == 1
        ]
        hosts = [point["hosts"] for point, _ in some]
        [line] = axes.plot(hosts, [found for _, found in some], "--", label=f"simulated, {ms:g} ms")
        axes.plot(
            hosts,
            [point["items_per_s"] for point, _ in some],
            mark,
            color=line.get_color(),
            label=f"measured, {ms:g} ms",
        )
    axes.set(xlabel="hosts", ylabel="texts/s", xticks=[1, 2, 4], ylim=(0, None))
    _save(figure, axes, "measured")


def _plot_curves(curves: dict[tuple[int, int], list[Result]]) -> None:
    figure, axes = _figure()
    for (servers, items), found in curves.items():
        label = f"{servers} server{'s' * (servers > 1)}, {items} text{'s' * (items > 1)} a job"
        axes.plot(WORKERS, [one.items_per_s for one in found], "o-", label=label)
    axes.set(xlabel="workers", ylabel="texts/s (simulated)", xscale="log", yscale="log")
    _save(figure, axes, "workers")


def _figure() -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams["svg.hashsalt"] = "moodq"
    return pyplot.subplots(figsize=(6.4, 3.8), layout="constrained")


def _save(figure: Any, axes: Any, name: str) -> None:
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})
