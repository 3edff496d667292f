"""``make chaos ITEMS=10000``: every scenario at length; writes ``build/chaos/latest.json``.

Exit code 1 when an accepted text has no result, or a wrong one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

from .scenarios import SCENARIOS, Run, Scenario, in_all, name_of
from .traffic import Tally

LATEST = Path("build/chaos/latest.json")
COLUMNS = ("items", "done", "failed", "lost", "wrong", "again", "resent", "redone", "longest s", "took s")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--items", type=int, default=10_000, help="texts in all")
    parser.add_argument("--seconds", type=float, default=None, help="harm per scenario; default: its own")
    parser.add_argument("--only", action="append", default=[], help="a scenario; may be repeated")
    asked = parser.parse_args()
    chosen = {one: plan for one, plan in SCENARIOS.items() if not asked.only or one.__name__ in asked.only}
    shares = sum(share for share, _ in chosen.values())
    tallies: dict[str, Tally] = {}
    console = Console()
    with Live(_table(tallies, ""), console=console, refresh_per_second=2) as live:
        for scenario, (share, seconds) in chosen.items():
            live.update(_table(tallies, name_of(scenario)))
            with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
                items = max(20, round(asked.items * share / shares))
                tallies[name_of(scenario)] = _run(
                    scenario, Run(Path(folder), items, asked.seconds or seconds)
                )
            live.update(_table(tallies, ""))
            _write(tallies)
            if not console.is_terminal:
                sys.stderr.write(f"{name_of(scenario)}: {tallies[name_of(scenario)]}\n")
    for name, tally in tallies.items():
        for fault in tally.faults[:5]:
            console.print(f"{name}: {fault}", style="red", markup=False, highlight=False)
    totals = in_all(tallies)
    return 1 if totals["lost"] or totals["wrong"] else 0


def _run(scenario: Scenario, run: Run) -> Tally:
    """A scenario that cannot be run to its end counts as a fault."""
    try:
        return scenario(run)
    except Exception:  # noqa: BLE001 - the others shall run
        return Tally(items=run.items, wrong=1, faults=[traceback.format_exc()])


def _table(tallies: dict[str, Tally], running: str) -> Table:
    table = Table("scenario", box=None, pad_edge=False)
    for column in COLUMNS:
        table.add_column(column, justify="right")
    table.add_column("harm")
    for name, tally in tallies.items():
        table.add_row(
            name, *_cells(asdict(tally)), tally.harm, style="red" if tally.lost or tally.wrong else ""
        )
    if running:
        table.add_row(running, *("…" for _ in COLUMNS), "", style="dim")
    seconds = sum(tally.seconds for tally in tallies.values())
    table.add_row("all", *_cells(in_all(tallies) | {"seconds": seconds}), "", style="bold")
    return table


def _cells(found: dict[str, float]) -> list[str]:
    counts = ("items", "done", "failed", "lost", "wrong", "executed_again", "resubmitted", "rewritten")
    return [f"{found.get(name, 0):,.0f}" for name in counts] + [
        f"{found.get('delay_s', 0):.1f}",
        f"{found.get('seconds', 0):.0f}",
    ]


def _write(tallies: dict[str, Tally]) -> None:
    document = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "all": in_all(tallies),
        "scenarios": {name: asdict(tally) for name, tally in tallies.items()},
    }
    LATEST.parent.mkdir(parents=True, exist_ok=True)
    unfinished = LATEST.with_suffix(".tmp")
    unfinished.write_text(json.dumps(document, ensure_ascii=False, indent=2) + "\n", "utf-8")
    unfinished.replace(LATEST)


if __name__ == "__main__":
    sys.exit(main())
