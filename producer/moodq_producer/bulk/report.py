"""The page of ``moodq tag --report``: one HTML file that needs nothing else, plots by matplotlib as SVG.

Collected row by row in bounded memory: what is drawn over the file is summed in at most ``STEPS`` steps,
which are joined in pairs when they become too many.
"""

from __future__ import annotations

import heapq
import io
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

from moodq_config.contracts import LabelScores
from moodq_config.errors import ConfigError, ErrorCode
from moodq_producer.bulk.times import coarser, hour_of_line, hour_of_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = 256
EXAMPLES = 15
SHOWN_CHARS = 300
BINS = 20
#: Times drawn at most; more are drawn together.
BARS = 240
#: Times that are told apart; with more, days are counted instead of hours, then months.
MAX_TIMES = 1_000
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
td, th { padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #8884; text-align: left; }
td { overflow-wrap: anywhere; vertical-align: top; }
figure { display: inline-block; margin: 0 1rem 1rem 0; background: #fff; max-width: 100%; }
figure svg { max-width: 100%; height: auto; }
"""


@dataclass(slots=True)
class _Step:
    """Rows that follow each other: counts by label, how many this process wrote, and when the last."""

    rows: int = 0
    fresh: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    ended_s: float = 0.0


class Report:
    """``add`` every row, then ``page``. ``task`` is the label task it is about; ``time_column`` the kept
    column that has a row's time, else a text may begin with it.

    Raises ``ConfigError`` without matplotlib.
    """

    def __init__(self, task: str, time_column: str | None = None) -> None:
        try:
            import dateutil  # noqa: F401
            import matplotlib  # noqa: F401
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"--report needs {error.name}; install it with: pip install 'moodq[eval]'",
                code=ErrorCode.NOT_INSTALLED,
            ) from None
        self._task = task
        self._time_column = time_column
        self._began = time.monotonic()
        self._steps = [_Step()]
        self._per_step = 1
        self._times: Counter[tuple[str, str]] = Counter()
        self._hours: set[str] = set()
        self._coarse = 0
        self._confidence = [0] * BINS
        self._total: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._negative: list[tuple[float, int, str, str]] = []
        self._uncertain: list[tuple[float, int, str, str]] = []
        self._rows = 0

    def add(
        self,
        where: str,
        text: str,
        labels: Mapping[str, LabelScores],
        *,
        code: str | None = None,
        kept: Mapping[str, Any] | None = None,
        fresh: bool = True,
    ) -> None:
        """One row: ``where`` it stands, its labels by task, or the code of its error. ``fresh``: written just
        now, not by the run that is gone on with."""
        self._rows += 1
        found = labels.get(self._task)
        step = self._step()
        step.rows += 1
        step.fresh += fresh
        step.ended_s = time.monotonic() - self._began
        if code is not None:
            self._codes[code] += 1
        if found is None:
            return
        step.labels[found.label] += 1
        self._total[found.label] += 1
        self._confidence[min(BINS - 1, int(found.probability * BINS))] += 1
        column = self._time_column
        hour = hour_of_line(text) if column is None else hour_of_value((kept or {}).get(column))
        if hour is not None:
            self._count_time(hour, found.label)
        shown = text[:SHOWN_CHARS]
        if "negative" in found.scores:
            _keep(self._negative, (found.scores["negative"], -self._rows, where, shown))
        _keep(self._uncertain, (-found.probability, -self._rows, where, shown))

    def page(self, title: str) -> str:
        labels = [label for label, _ in self._total.most_common()]
        spent_s = time.monotonic() - self._began
        parts = [
            "<!doctype html><html><head><meta charset='utf-8'>",
            "<meta name='viewport' content='width=device-width'>",
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>",
            f"<p>{self._rows:,} rows in {spent_s:,.0f} s, task {escape(self._task)}.</p>",
            _counts("label", self._total, self._rows),
            _counts("failed", self._codes, self._rows) if self._codes else "",
            _svg("Labels over the file", lambda axes: self._mix(axes, labels)),
            _svg("How certain", self._certain),
            _svg("Rows a second", self._speed),
        ]
        if len(self._hours) > 1:
            parts.append(_svg("Labels over time", lambda axes: self._over_time(axes, labels)))
        parts += [
            _examples("Most negative", self._negative, sign=1) if self._negative else "",
            _examples("Least certain", self._uncertain, sign=-1),
            "</body></html>\n",
        ]
        return "\n".join(parts)

    def _step(self) -> _Step:
        if self._steps[-1].rows < self._per_step:
            return self._steps[-1]
        if len(self._steps) >= STEPS:
            self._steps = [_joined(a, b) for a, b in zip(self._steps[::2], self._steps[1::2], strict=True)]
            self._per_step *= 2
        self._steps.append(_Step())
        return self._steps[-1]

    def _count_time(self, hour: str, label: str) -> None:
        for _ in range(self._coarse):
            hour = coarser(hour) or hour
        self._times[hour, label] += 1
        self._hours.add(hour)
        while len(self._hours) > MAX_TIMES and self._coarse < 3:
            self._coarse += 1
            times: Counter[tuple[str, str]] = Counter()
            for (fine, name), count in self._times.items():
                times[coarser(fine) or fine, name] += count
            self._times, self._hours = times, {coarse for coarse, _ in times}

    def _mix(self, axes: Axes, labels: list[str]) -> None:
        ends, rows = [], 0
        for step in self._steps:
            rows += step.rows
            ends.append(rows)
        shares = [[step.labels[label] / max(1, step.rows) for step in self._steps] for label in labels]
        if labels:
            axes.stackplot(ends, shares, labels=labels)
            axes.legend(fontsize="small", loc="lower left")
        axes.set(xlabel="row", ylabel="share", ylim=(0, 1))

    def _over_time(self, axes: Axes, labels: list[str]) -> None:
        hours = sorted(self._hours)
        together = -(-len(hours) // BARS)
        groups = [hours[start : start + together] for start in range(0, len(hours), together)]
        hours = [group[0] for group in groups]
        bottom = [0] * len(hours)
        for label in labels:
            counts = [sum(self._times[hour, label] for hour in group) for group in groups]
            axes.bar(range(len(hours)), counts, bottom=bottom, label=label, width=1.0)
            bottom = [low + count for low, count in zip(bottom, counts, strict=True)]
        marks = range(0, len(hours), max(1, len(hours) // 6))
        axes.set_xticks(
            list(marks), [hours[mark] for mark in marks], rotation=30, ha="right", fontsize="small"
        )
        axes.legend(fontsize="small", loc="upper left")
        unit = ("hour", "day", "month", "year")[self._coarse]
        axes.set(ylabel=f"rows in {together} {unit}s" if together > 1 else f"rows in each {unit}")

    def _certain(self, axes: Axes) -> None:
        axes.bar([index / BINS for index in range(BINS)], self._confidence, width=1 / BINS, align="edge")
        axes.set(xlabel="probability of the label", ylabel="rows")

    def _speed(self, axes: Axes) -> None:
        times, speeds, before = [], [], 0.0
        for step in self._steps:
            if step.fresh:
                times.append(step.ended_s)
                speeds.append(step.fresh / max(1e-3, step.ended_s - before))
            before = step.ended_s
        axes.plot(times, speeds)
        axes.set(xlabel="seconds", ylabel="rows a second", ylim=(0, None))


def _joined(first: _Step, second: _Step) -> _Step:
    return _Step(
        first.rows + second.rows, first.fresh + second.fresh, first.labels + second.labels, second.ended_s
    )


def _keep(heap: list[tuple[float, int, str, str]], one: tuple[float, int, str, str]) -> None:
    if len(heap) < EXAMPLES:
        heapq.heappush(heap, one)
    elif one > heap[0]:
        heapq.heapreplace(heap, one)


def _counts(head: str, counts: Counter[str], rows: int) -> str:
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{count:,}</td><td>{count / rows:.1%}</td></tr>"
        for name, count in counts.most_common()
    )
    return f"<table><tr><th>{escape(head)}</th><th>rows</th><th>share</th></tr>{body}</table>"


def _examples(head: str, heap: list[tuple[float, int, str, str]], *, sign: int) -> str:
    body = "".join(
        f"<tr><td>{sign * score:.3f}</td><td>{escape(where)}</td><td>{escape(text)}</td></tr>"
        for score, _, where, text in sorted(heap, reverse=True)
    )
    return (
        f"<h2>{escape(head)}</h2><table><tr><th>probability</th><th>line</th><th>text</th></tr>{body}</table>"
    )


def _svg(title: str, draw: Callable[[Any], None]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    draw(axes)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}</figure>"
