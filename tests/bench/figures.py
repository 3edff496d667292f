"""What the sections find: named ratios, named figures, and tables for a person."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class TableOf:
    """``rows`` hold text and numbers, one list a row, as long as ``columns``."""

    title: str
    columns: list[str]
    rows: list[list[Any]] = field(default_factory=list)
    note: str = ""


@dataclass(slots=True)
class Figures:
    """Collected over all sections; ``left_out`` says what was not measured, and why."""

    ratios: dict[str, float] = field(default_factory=dict)
    figures: dict[str, float] = field(default_factory=dict)
    tables: list[TableOf] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        tables = [
            {"title": one.title, "columns": one.columns, "rows": one.rows, "note": one.note}
            for one in self.tables
        ]
        return {"ratios": self.ratios, "figures": self.figures, "tables": tables, "left_out": self.left_out}


def percentile(values: Sequence[float], percent: int) -> float:
    """Nearest rank."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, round(percent / 100 * len(ranked)))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
