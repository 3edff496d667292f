"""How a run is going: a bar for a terminal, now and then a line for a log, and the counts of both."""

from __future__ import annotations

import sys
import time
from collections import Counter
from types import TracebackType

from moodq_config.answers import ChosenLabel, LabelScores
from moodq_config.contracts import Result
from moodq_producer.bulk.files import Position

LINE_EVERY_S = 10.0


class Counts:
    """What came out so far; ``before`` are those of the run that is gone on with."""

    def __init__(self, before: dict[str, int]) -> None:
        self.all: Counter[str] = Counter(before)

    def add(self, result: Result) -> None:
        self.all["rows"] += 1
        if result.error is not None:
            self.all["failed"] += 1
            self.all[f"code:{result.error.code}"] += 1
            return
        if result.cached:
            self.all["cached"] += 1
        for task, found in result.results.items():
            if isinstance(found, LabelScores | ChosenLabel):
                self.all[f"label:{task}:{found.label}"] += 1

    def labels(self) -> str:
        """Shares of the first task's labels, the most frequent first."""
        found = [
            (name.split(":", 2)[1:], count) for name, count in self.all.items() if name.startswith("label:")
        ]
        if not found:
            return ""
        first = found[0][0][0]
        mine = sorted(((count, label) for (task, label), count in found if task == first), reverse=True)
        total = sum(count for count, _ in mine)
        return ", ".join(f"{label} {count / total:.0%}" for count, label in mine[:4])


class Progress:
    """A context; ``step`` after every row."""

    def __init__(self, counts: Counts, position: Position, *, quiet: bool) -> None:
        self._counts = counts
        self._position = position
        self._bar = None
        self._task = None
        self._began = self._told_at = time.monotonic()
        self._before = counts.all["rows"]
        self._quiet = quiet
        if not quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.fields[told]}"), BarColumn(), TimeRemainingColumn(),
                console=Console(stderr=True),
            )  # fmt: skip
            self._task = self._bar.add_task("", total=position.total, told="")

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._show()
            self._bar.stop()

    def step(self) -> None:
        now = time.monotonic()
        if now - self._told_at < (0.2 if self._bar is not None else LINE_EVERY_S):
            return
        self._told_at = now
        self._show()

    def told(self) -> str:
        """Where the run stands, in a line."""
        counts = self._counts.all
        rows = counts["rows"]
        speed = (rows - self._before) / max(1e-9, time.monotonic() - self._began)
        parts = [f"{rows:,} rows", f"{speed:,.0f}/s", self._counts.labels()]
        parts += [f"{counts[name]:,} {name}" for name in ("cached", "failed") if counts[name]]
        return "; ".join(part for part in parts if part)

    def _show(self) -> None:
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=self._position.done, told=self.told())
        elif not self._quiet:
            print(f"moodq: {self.told()}", file=sys.stderr, flush=True)  # noqa: T201 - progress of a command
