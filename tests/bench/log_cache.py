"""Log lines with and without the result cache, whose key leaves out what varies within a template."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory

from moodq_config.names import CACHE_OLD, CACHE_YOUNG

from .figures import Figures, TableOf, median
from .service import RESULT_TIMEOUT_S, TASK, Service

#: Beside the repository, where there is such a folder: real lines of a web server's log.
LOG = Path("../shared/data/Apache_2k.log")
#: Lines without the cache: enough for a steady speed.
UNCACHED_LINES = 400


def log_cache(start: Callable[[ExitStack, dict[str, str]], Service], rounds: int, into: Figures) -> None:
    if not LOG.exists():
        into.left_out.append(f"log lines with the cache: no {LOG}")
        return
    lines = LOG.read_text("utf-8", "replace").splitlines()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="moodq-bench-")))
        service = start(stack, {"MOODQ_TASKS_FILE": str(by_template(folder)), "MOODQ_CACHE_TTL_S": "3600"})
        plain = start(stack, {"MOODQ_BATCH_TOKENS": "512"})
        with_cache, without = [], []
        for _ in range(rounds):
            service.client._redis.delete(CACHE_YOUNG, CACHE_OLD)
            with_cache.append(_lines_per_s(service, lines))
            without.append(_lines_per_s(plain, lines[:UNCACHED_LINES]))
    into.ratios["log_cached_vs_uncached"] = round(median(with_cache) / median(without), 2)
    rows = [
        [f"all {len(lines)}, cache by template, empty at first", round(median(with_cache), 1)],
        [f"the first {UNCACHED_LINES}, no cache", round(median(without), 1)],
    ]
    into.tables.append(TableOf(f"Lines of {LOG.name}", ["", "lines/s"], rows))


def by_template(folder: Path) -> Path:
    """The shipped tasks, with sentiment's cache by template."""
    shipped = resources.files("moodq_config").joinpath("tasks.toml").read_text("utf-8")
    head = "[tasks.sentiment]\n"
    path = folder / "tasks.toml"
    path.write_text(shipped.replace(head, f'{head}cache = "template"\n'), "utf-8")
    return path


def _lines_per_s(service: Service, lines: Sequence[str]) -> float:
    began = time.perf_counter()
    ids = [ticket.id for ticket in service.client.submit_many(lines, [TASK])]
    count = sum(1 for _ in service.client.wait(ids, RESULT_TIMEOUT_S))
    return count / (time.perf_counter() - began)
