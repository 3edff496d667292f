"""``python -m tests.bench.profile``: where the worker's time goes when the engine costs nothing.

py-spy samples a worker that drains a full queue, with one text a job and with a hundred. Samples that hold
the GIL are counted, by thread and innermost function of moodq: that lock is what a worker has one of. Writes
``docs/queue-profile.md`` and a flame graph. Needs the extra ``bench``, and leave to trace other processes.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click
from rq.suspension import resume, suspend

from .machine import cpu_name
from .page import PLOTS, table
from .queue_side import CHUNK, EMPTY
from .service import TASK, Service

PAGE = Path("docs/queue-profile.md")
GRAPH = PLOTS / "queue_loop.svg"
FOLDER = Path("build/bench")
SECONDS = 6
RATE_HZ = 200
#: Jobs that wait, more than a worker drains meanwhile.
SINGLES, CHUNKED = 40_000, 200_000
ROWS = 14
THREADS = {"MainThread": "loop"}
WHY = {
    "delivery": "with one text a job RQ's writer of the job's hash; one result for each text, as an object "
    "that is checked and written as JSON, its timings and its counts; then one script for the batch",
    "intake": "with one text a job RQ's reader of the job's hash, field by field; then JSON into checked "
    "items, one digest a text for the cache, one look at Redis for a whole claim",
    "loop": "the empty engine itself, the batches, and each text's way from stage to stage",
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Profile the worker's loop under an empty engine; writes docs/queue-profile.md."""
    if _py_spy() is None:
        click.echo("profile: py-spy is not installed: pip install 'moodq[bench]'", err=True)
        sys.exit(4)
    lines = [
        "# Where the worker's time goes",
        "",
        "Written by `python -m tests.bench.profile`: py-spy on one worker with an empty engine that drains",
        f"a full queue for {SECONDS} s, {RATE_HZ} samples a second. Those that hold the GIL are counted,",
        "by thread and by innermost function of moodq; what that calls in libraries counts to it. "
        f"{cpu_name()}.",
        "",
    ]
    with Service(log=FOLDER / "profile-worker.log", environment=EMPTY) as service:
        service.wait_ready()
        for title, texts, chunk in (
            ("One text a job", SINGLES, 1),
            (f"{CHUNK} texts a job", CHUNKED, CHUNK),
        ):
            stacks, speed = sampled(service, texts, chunk)
            lines += section(title, stacks, speed)
        sampled(service, CHUNKED, CHUNK, flame_graph=GRAPH)
        # Its title is the command with the program's path, which is nobody's business.
        GRAPH.write_text(GRAPH.read_text("utf-8").replace(str(_py_spy()), "py-spy"), "utf-8")
    lines += [
        f"![Flame graph of {CHUNK} texts a job]({GRAPH.relative_to(PAGE.parent)})",
        "",
        "## What remains, and why",
        "",
        *(f"- **{name}**: {why}." for name, why in WHY.items()),
        "",
        "It is Python that makes and checks objects, some for every text; Redis is busy on another core.",
        "[ADR 009](adr/009-finish-in-one-script.md) says what was tried to have less of it.",
    ]
    PAGE.write_text("\n".join(lines) + "\n", "utf-8")
    click.echo(f"written: {PAGE}, {GRAPH}")


def sampled(
    service: Service, texts: int, chunk: int, flame_graph: Path | None = None
) -> tuple[Counter[tuple[str, ...]], float]:
    """Samples by stack, outermost first, and the texts a second meanwhile."""
    server: Any = service.client._redis
    suspend(server)
    time.sleep(1.2)  # until the worker has noticed
    sources = (f"the parcel came {number} days late ({chunk}, {flame_graph})" for number in range(texts))
    for _ in service.client.submit_many(sources, [TASK], queue="bulk", chunk=chunk):
        pass
    output = flame_graph or FOLDER / "profile.raw"
    output.parent.mkdir(parents=True, exist_ok=True)
    kind = "flamegraph" if flame_graph else "raw"
    resume(server)
    time.sleep(0.5)
    before, began = service.items_done(), time.perf_counter()
    subprocess.run(
        [_py_spy() or "", "record", "--pid", str(service.worker_pid), "--gil", "--threads", "--format", kind,
         "--duration", str(SECONDS), "--rate", str(RATE_HZ), "--output", str(output)],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    speed = (service.items_done() - before) / (time.perf_counter() - began)
    server.delete("rq:queue:bulk")
    deadline = time.monotonic() + 60
    while server.zcard("rq:wip:bulk") and time.monotonic() < deadline:
        time.sleep(0.1)
    stacks: Counter[tuple[str, ...]] = Counter()
    if not flame_graph:
        for line in output.read_text().splitlines():
            frames, _, count = line.rpartition(" ")
            stacks[tuple(frames.split(";"))] += int(count)
    return stacks, speed


def section(title: str, stacks: Counter[tuple[str, ...]], speed: float) -> list[str]:
    total = stacks.total()
    threads: Counter[str] = Counter()
    functions: Counter[tuple[str, str]] = Counter()
    for frames, count in stacks.items():
        thread = thread_of(frames)
        threads[thread] += count
        functions[thread, innermost(frames)] += count
    return [
        f"## {title}",
        "",
        f"{speed:,.0f} texts/s while sampled, on a machine that others use too.",
        "",
        *table(
            ["thread", "of the samples"], [[name, f"{n / total:.0%}"] for name, n in threads.most_common(4)]
        ),
        "",
        *table(
            ["thread", "function", "of the samples"],
            [[*where, f"{n / total:.1%}"] for where, n in functions.most_common(ROWS)],
        ),
        "",
    ]


def thread_of(frames: tuple[str, ...]) -> str:
    name = next((frame.partition(":")[2].strip() for frame in frames if frame.startswith("thread ")), "")
    return THREADS.get(name, "other" if not name or name.startswith("Thread-") else name)


def innermost(frames: tuple[str, ...]) -> str:
    """``module.function`` of moodq that a sample was in, or called from."""
    for frame in reversed(frames):
        function, _, place = frame.partition(" (")
        for package in ("moodq_worker/", "moodq_config/"):
            if package in place:
                module = place.partition(package)[2].partition(".py")[0].replace("/", ".")
                return f"{module}.{function}"
    return "outside moodq"


def _py_spy() -> str | None:
    beside = Path(sys.executable).with_name("py-spy")
    return str(beside) if beside.is_file() else shutil.which("py-spy")


if __name__ == "__main__":
    main()
