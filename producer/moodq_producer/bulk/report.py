"""The page of ``moodq tag --report``: one HTML file that needs nothing else, plots by matplotlib as SVG.

Collected row by row in bounded memory: what is drawn over the file is summed in at most ``STEPS`` steps,
which are joined in pairs when they become too many.
"""

from __future__ import annotations

import heapq
import io
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from html import escape
from typing import TYPE_CHECKING, Any

from moodq_config.contracts import LabelScores, Result
from moodq_config.errors import ConfigError, ErrorCode

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEPS = 256
EXAMPLES = 15
SHOWN_CHARS = 300
BINS = 20
#: Where a log line's time stands: at its beginning, maybe in brackets.
_STAMP = re.compile(
    r"^\W{0,2}("
    r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d|"
    r"\d{4}/\d\d/\d\d \d\d:\d\d:\d\d|"
    r"[A-Z][a-z]{2} [A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d \d{4}|"
    r"[A-Z][a-z]{2} +\d{1,2} \d\d:\d\d:\d\d)"
)
_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y/%m/%d %H:%M:%S", "%a %b %d %H:%M:%S %Y", "%b %d %H:%M:%S")
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
    """Rows that follow each other: counts by label, and when the last was written."""

    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    ended_s: float = 0.0


class Report:
    """``add`` every row, then ``page``. ``task`` is the label task it is about.

    Raises ``ConfigError`` without matplotlib.
    """

    def __init__(self, task: str) -> None:
        try:
            import matplotlib  # noqa: F401
        except ModuleNotFoundError:
            raise ConfigError(
                "--report needs matplotlib; install it with: pip install 'moodq[eval]'",
                code=ErrorCode.NOT_INSTALLED,
            ) from None
        self._task = task
        self._began = time.monotonic()
        self._steps = [_Step()]
        self._per_step = 1
        self._times: Counter[tuple[str, str]] = Counter()
        self._confidence = [0] * BINS
        self._total: Counter[str] = Counter()
        self._codes: Counter[str] = Counter()
        self._negative: list[tuple[float, int, str]] = []
        self._uncertain: list[tuple[float, int, str]] = []
        self._rows = 0

    def add(self, line: int, text: str, result: Result) -> None:
        self._rows += 1
        found = result.results.get(self._task)
        step = self._step()
        step.rows += 1
        step.ended_s = time.monotonic() - self._began
        if result.error is not None:
            self._codes[result.error.code] += 1
        if not isinstance(found, LabelScores):
            return
        step.labels[found.label] += 1
        self._total[found.label] += 1
        self._confidence[min(BINS - 1, int(found.probability * BINS))] += 1
        if (hour := _hour(text)) is not None:
            self._times[hour, found.label] += 1
        if "negative" in found.scores:
            _keep(self._negative, (found.scores["negative"], -line, text[:SHOWN_CHARS]))
        _keep(self._uncertain, (-found.probability, -line, text[:SHOWN_CHARS]))

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
        if len({hour for hour, _ in self._times}) > 1:
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
        hours = sorted({hour for hour, _ in self._times})
        bottom = [0] * len(hours)
        for label in labels:
            counts = [self._times[hour, label] for hour in hours]
            axes.bar(range(len(hours)), counts, bottom=bottom, label=label, width=1.0)
            bottom = [low + count for low, count in zip(bottom, counts, strict=True)]
        marks = range(0, len(hours), max(1, len(hours) // 6))
        axes.set_xticks(
            list(marks), [hours[mark] for mark in marks], rotation=30, ha="right", fontsize="small"
        )
        axes.legend(fontsize="small")
        axes.set(ylabel="rows an hour")

    def _certain(self, axes: Axes) -> None:
        axes.bar([index / BINS for index in range(BINS)], self._confidence, width=1 / BINS, align="edge")
        axes.set(xlabel="probability of the label", ylabel="rows")

    def _speed(self, axes: Axes) -> None:
        times, speeds, before = [], [], 0.0
        for step in self._steps:
            times.append(step.ended_s)
            speeds.append(step.rows / max(1e-3, step.ended_s - before))
            before = step.ended_s
        axes.plot(times, speeds)
        axes.set(xlabel="seconds", ylabel="rows a second", ylim=(0, None))


def _joined(first: _Step, second: _Step) -> _Step:
    return _Step(first.rows + second.rows, first.labels + second.labels, second.ended_s)


def _keep(heap: list[tuple[float, int, str]], one: tuple[float, int, str]) -> None:
    if len(heap) < EXAMPLES:
        heapq.heappush(heap, one)
    elif one > heap[0]:
        heapq.heapreplace(heap, one)


def _hour(text: str) -> str | None:
    """The hour a log line begins with, as it sorts; a line without a year counts as of none."""
    found = _STAMP.match(text)
    if found is None:
        return None
    stamp = (
        " ".join(found[1].replace("T", " ", 1).split())
        if found[1][0].isdigit()
        else " ".join(found[1].split())
    )
    for form in _FORMATS:
        # A leap year, so that 29 February is a day also where no year is told.
        dated = (stamp, form) if "%Y" in form else (f"2000 {stamp}", f"%Y {form}")
        try:
            moment = datetime.strptime(*dated)
        except ValueError:
            continue
        return f"{moment:%Y-%m-%d %Hh}" if "%Y" in form else f"{moment:%m-%d %Hh}"
    return None


def _counts(head: str, counts: Counter[str], rows: int) -> str:
    body = "".join(
        f"<tr><td>{escape(name)}</td><td>{count:,}</td><td>{count / rows:.1%}</td></tr>"
        for name, count in counts.most_common()
    )
    return f"<table><tr><th>{escape(head)}</th><th>rows</th><th>share</th></tr>{body}</table>"


def _examples(head: str, heap: list[tuple[float, int, str]], *, sign: int) -> str:
    body = "".join(
        f"<tr><td>{sign * score:.3f}</td><td>{-line}</td><td>{escape(text)}</td></tr>"
        for score, line, text in sorted(heap, reverse=True)
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
