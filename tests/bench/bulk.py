"""``python -m tests.bench.bulk FILE...``: a long log through ``moodq tag``, killed twice and resumed.

The lines of the files named are repeated with their numbers varied. A run is killed with SIGKILL and resumed,
and its output compared, byte by byte, with that of an unbroken one; with ``--local`` one more brings its own
server and worker. With the real model, a task whose cache goes by template (``log_severity``) asks it once
for each kind of line. Writes build/bench/bulk.json, one entry for each engine and task.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import psutil  # type: ignore[import-untyped]

from moodq_config.settings import load_settings

from .service import Service

OUT = Path("build/bench/bulk.json")
MAIN = "from moodq_config.cli import main; main()"
_NUMBER = re.compile(r"\d+")
KILLS = 2


def vary(line: str, random_: random.Random) -> str:
    """``line`` with other digits in its numbers."""
    return _NUMBER.sub(lambda found: str(random_.randrange(10 ** min(9, len(found[0])))), line)


class Tag:
    """The command as a process; ``peak_mb`` is its largest resident size seen."""

    def __init__(self, folder: Path, environment: dict[str, str], *args: str) -> None:
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, "tag", "in.log", "-q", *args],
            cwd=folder,
            env={**{n: v for n, v in os.environ.items() if not n.startswith("MOODQ_")}, **environment},
        )
        self.sizes_mb: list[float] = []

    def run(self, seconds: float | None = None) -> int | None:
        """Until it ends, or for ``seconds``; samples its memory."""
        while self.process.poll() is None:
            if seconds is not None and time.monotonic() - self.began > seconds:
                return None
            try:
                self.sizes_mb.append(psutil.Process(self.process.pid).memory_info().rss / 1e6)
            except psutil.NoSuchProcess:
                break
            time.sleep(0.5)
        return self.process.wait()


def _alone(folder: Path, settings: dict[str, str], lines: int, more: list[str]) -> dict[str, Any]:
    """In one command: server and worker are its own and new, only the model is there."""
    data = folder / "data"
    data.mkdir()
    (data / "models").symlink_to(load_settings().data_dir / "models")
    here = settings | {"MOODQ_DATA_DIR": str(data), "MOODQ_METRICS_PORT": "0"}
    alone = Tag(folder, here, "--local", "-o", "local.jsonl", *more)
    code = alone.run()
    seconds = time.monotonic() - alone.began
    count = sum(1 for _ in (folder / "local.jsonl").open("rb"))
    return {
        "exit_code": code,
        "lines": count,
        "seconds": round(seconds, 1),
        "items_per_s": round(lines / seconds),
    }


@click.command()
@click.argument(
    "files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path)
)
@click.option("--lines", default=1_000_000, show_default=True)
@click.option("--engine", type=click.Choice(["fake", "hf"]), default="fake", show_default=True)
@click.option("--task", default="sentiment", show_default=True)
@click.option("--dedupe", is_flag=True)
@click.option("--local", is_flag=True, help="Also in one command, from a cold start.")
def main(files: tuple[Path, ...], lines: int, engine: str, task: str, dedupe: bool, local: bool) -> None:
    """Tag so many log lines unbroken, and killed and resumed. Exit code 1 when the outputs differ."""
    source = [
        line for path in files for line in path.read_text("utf-8", "replace").splitlines() if line.strip()
    ]
    random_ = random.Random(11)
    more = ["--tasks", task, *(["--dedupe"] if dedupe else [])]
    settings = {"MOODQ_ENGINE": engine, "MOODQ_CACHE_TTL_S": "86400" if engine == "hf" else "0"}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="moodq-bulk-")))
        with (folder / "in.log").open("w", encoding="utf-8") as out:
            for line in islice(cycle(source), lines):
                out.write(vary(line, random_) + "\n")
        service = stack.enter_context(Service(log=OUT.parent / "bulk-worker.log", environment=settings))
        service.wait_ready()
        url = {"MOODQ_REDIS_URL": str(service.client.settings.redis_url)}
        whole = Tag(folder, url, "-o", "whole.jsonl", *more)
        code = whole.run()
        seconds = time.monotonic() - whole.began
        broken = [Tag(folder, url, "-o", "broken.jsonl", *more)]
        for _ in range(KILLS):
            if broken[-1].run(seconds / (KILLS + 1)) is None:
                broken[-1].process.kill()
                broken[-1].process.wait()
                broken.append(Tag(folder, url, "-o", "broken.jsonl", "--resume", *more))
        last = broken[-1].run()
        same = (folder / "whole.jsonl").read_bytes() == (folder / "broken.jsonl").read_bytes()
        half = len(whole.sizes_mb) // 2
        document: dict[str, Any] = {
            "lines": lines,
            "engine": engine,
            "task": task,
            "dedupe": dedupe,
            "seconds": round(seconds, 1),
            "items_per_s": round(lines / seconds),
            "peak_mb_first_half": round(max(whole.sizes_mb[:half], default=0.0)),
            "peak_mb_second_half": round(max(whole.sizes_mb[half:], default=0.0)),
            "kills": len(broken) - 1,
            "exit_codes": [code, last],
            "identical": same,
        }
        if local:
            document["local"] = _alone(folder, settings, lines, more)
    found = {}
    if OUT.exists():
        found = {
            name: one for name, one in json.loads(OUT.read_text("utf-8")).items() if isinstance(one, dict)
        }
    found[f"{engine}-{task}"] = document
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    click.echo(json.dumps(document, indent=1))
    sys.exit(0 if same and code == last == 0 else 1)


if __name__ == "__main__":
    load_settings()  # a wrong setting is told before anything is started
    main()
