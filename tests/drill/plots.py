"""The dashboards' panels as pictures, from the same queries: what Grafana would draw."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from .prometheus import Api, Query, queries

COLUMNS = 3
PANEL_IN = (5.2, 2.7)
#: By Grafana's names of units.
UNITS: dict[str, tuple[str, Callable[[float], float]]] = {
    "s": ("s", lambda value: value),
    "ops": ("per s", lambda value: value),
    "percentunit": ("%", lambda value: 100 * value),
    "bytes": ("MiB", lambda value: value / 2**20),
    "none": ("", lambda value: value),
}


def plot_dashboards(api: Api, start: float, end: float, folder: Path) -> None:
    """One PNG for each dashboard, ``moodq-<name>.png``. Times are unix seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    by_dashboard: dict[str, dict[str, list[Query]]] = {}
    for one in queries():
        if one.kind == "timeseries":
            by_dashboard.setdefault(one.dashboard, {}).setdefault(one.panel, []).append(one)
    for name, panels in by_dashboard.items():
        with mpl.rc_context({"font.size": 8, "axes.grid": True, "grid.alpha": 0.25}):
            rows = math.ceil(len(panels) / COLUMNS)
            figure = Figure(figsize=(PANEL_IN[0] * COLUMNS, PANEL_IN[1] * rows), layout="constrained")
            figure.suptitle(f"moodq: {name}", fontsize=12, fontweight="bold")
            for number, (title, asked) in enumerate(panels.items(), 1):
                axes = figure.add_subplot(rows, COLUMNS, number)
                axes.set_title(title, fontsize=9, loc="left")
                _draw(axes, api, asked, start, end)
            figure.savefig(folder / f"moodq-{name}.png", dpi=80)


def _draw(axes: Any, api: Api, asked: Sequence[Query], start: float, end: float) -> None:
    unit, scaled = UNITS[asked[0].unit]
    drawn: list[tuple[str, list[float], list[float]]] = []
    for one in asked:
        for series in api.over_time(one.expr, start, end):
            points = [(float(at) - start, scaled(float(value))) for at, value in series["values"]]
            legend = _legend(one.legend, series["metric"])
            drawn.append((legend, [at for at, _ in points], [value for _, value in points]))
    drawn = [line for line in drawn if any(value == value and value for value in line[2])] or drawn[:1]
    if asked[0].stacked:
        _stack(axes, drawn)
    else:
        for legend, at, values in drawn:
            axes.plot(at, values, linewidth=1.1, label=legend)
    axes.set_ylabel(unit)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, end - start)
    axes.set_xlabel("seconds")
    if any(legend for legend, *_ in drawn):
        axes.legend(fontsize=6.5, ncols=2 if len(drawn) > 3 else 1, loc="upper left", framealpha=0.75)


def _stack(axes: Any, drawn: Sequence[tuple[str, list[float], list[float]]]) -> None:
    """Areas on one another; a series counts as 0 where it has no point yet."""
    moments = sorted({at for _, times, _ in drawn for at in times})
    rows = []
    for _, at, values in drawn:
        known = {moment: value for moment, value in zip(at, values, strict=True) if value == value}
        rows.append([known.get(moment, 0.0) for moment in moments])
    axes.stackplot(moments, rows, labels=[legend for legend, *_ in drawn], alpha=0.75, linewidth=0)


def _legend(pattern: str, labels: dict[str, str]) -> str:
    if pattern == "__auto":
        return ""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), pattern).strip(" ,")
