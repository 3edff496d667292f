"""The table for a person and ``build/bench/latest.json`` for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .figures import Figures, TableOf
from .machine import Machine
from .measure import Row

LATEST = Path("build/bench/latest.json")
#: Fastest round over slowest, from which on a row's figures are called noisy.
NOISY_SPREAD = 1.4


def write_json(document: dict[str, Any], path: Path = LATEST) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", "utf-8")
    unfinished.replace(path)


def print_rows(console: Console, machine: Machine, rows: Sequence[Row], *, new_tokens: float) -> None:
    floor = machine.floor_items_per_s(new_tokens)
    console.print(
        f"matmul peak: fp32 {machine.peaks['fp32'] / 1e9:,.0f}, bf16 {machine.peaks['bf16'] / 1e9:,.0f} "
        f"GFLOP/s ({machine.threads} threads)\n"
        f"floor: {machine.floor_tokens_per_s:,.0f} tokens/s = {machine.precision} peak / (2 × "
        f"{machine.body_parameters / 1e6:,.0f} M parameters); {floor:,.1f} items/s "
        f"at {new_tokens:.1f} new tokens each",
        highlight=False,
    )
    langs = sorted({lang for row in rows for lang in row.hits})
    table = Table(box=None, pad_edge=False)
    table.add_column("row")
    for title in ("items/s", "p50 ms", "p95 ms", "accuracy", *langs, "of the floor"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.speed:,.2f}",
            _milliseconds(row, 50),
            _milliseconds(row, 95),
            _share(row.accuracy()),
            *(_share(row.accuracy(lang)) for lang in langs),
            f"{row.speed / floor:.1%}",
        )
    console.print(table)
    noisy = [f"{row.name} ({row.spread:.1f}×)" for row in rows if row.spread > NOISY_SPREAD]
    if noisy:
        console.print(
            f"not to be trusted: rounds differ by more than {NOISY_SPREAD:.2f}× for {', '.join(noisy)}; "
            "other work ran on this machine, or the texts differ much: run again when it is idle",
            style="yellow",
            highlight=False,
        )


def print_figures(
    console: Console, found: Figures, tables: Sequence[TableOf], *, ratios: bool = False
) -> None:
    """Print ``tables``; with ``ratios`` all ratios and what was left out."""
    for one in tables:
        shown = Table(title=one.title, title_justify="left", box=None, pad_edge=False)
        for number, column in enumerate(one.columns):
            shown.add_column(column, justify="right" if number else "left")
        for row in one.rows:
            shown.add_row(*("–" if cell is None else str(cell) for cell in row))
        console.print(shown)
        if one.note:
            console.print(one.note, style="dim", highlight=False)
    if ratios:
        listed = Table("ratio", box=None, pad_edge=False)
        listed.add_column("", justify="right")
        for name, value in found.ratios.items():
            listed.add_row(name, f"{value:.2f}")
        console.print(listed)
        for line in found.left_out:
            console.print(f"left out: {line}", style="yellow", highlight=False, markup=False)


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _milliseconds(row: Row, percent: int) -> str:
    return f"{row.percentile_s(percent) * 1e3:,.0f}" if row.latencies_s else "–"
