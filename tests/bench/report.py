"""The table for a person and ``build/bench/latest.json`` for a program."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

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


def print_tables(
    console: Console, machine: Machine, rows: Sequence[Row], ratios: dict[str, float], *, new_tokens: float
) -> None:
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
    table.add_column("row", no_wrap=True)
    for title in ("items/s", "p50 ms", "p95 ms", "accuracy", *langs, "of the floor"):
        table.add_column(title, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            f"{row.speed:,.2f}",
            f"{row.percentile_s(50) * 1e3:,.0f}",
            f"{row.percentile_s(95) * 1e3:,.0f}",
            _share(row.accuracy()),
            *(_share(row.accuracy(lang)) for lang in langs),
            f"{row.speed / floor:.1%}",
        )
    console.print(table)
    shown = Table("ratio", box=None, pad_edge=False)
    shown.add_column("", justify="right")
    for name, value in ratios.items():
        shown.add_row(name, f"{value:.2f}")
    console.print(shown)
    noisy = [f"{row.name} ({row.spread:.1f}×)" for row in rows if row.spread > NOISY_SPREAD]
    if noisy:
        console.print(
            f"not to be trusted: rounds differ by more than {NOISY_SPREAD:.2f}× for {', '.join(noisy)}; "
            "other work ran on this machine, or the texts differ much: run again when it is idle",
            style="yellow",
            highlight=False,
        )


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
