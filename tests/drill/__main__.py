"""``python -m tests.drill``, from the repository's root: real Prometheus over real workers, by ``deploy/``.

Under load every query of every panel of the dashboards must return data; then each alert is brought about,
and must fire, while the rest of the system lives. Writes build/drill/latest.json, and plots of the panels
with ``--plot``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from redis import Redis
from rich.console import Console
from rich.table import Table

from .exercises import EXERCISES, Stage
from .load import Load
from .prometheus import Api, queries
from .system import System, missing

LATEST = Path("build/drill/latest.json")
FED_S, FIRES_S = 60.0, 90.0


@dataclass(frozen=True, slots=True)
class Plan:
    """``load_s``: seconds of load before the panels are looked at."""

    load_s: float
    engine: str = "fake"
    alerts: bool = True
    short: bool = False
    per_s: float = 8.0
    plot: Path | None = None


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seconds", default=30.0, show_default=True, help="Of load before the panels are looked at.")
@click.option("--engine", default="fake", show_default=True, type=click.Choice(["fake", "hf"]),
              help="hf: the real model; without the alerts, which need a pliable one.")  # fmt: skip
@click.option("--per-s", default=8.0, show_default=True, help="Messages a second at most.")
@click.option("--short", is_flag=True, help="One alert of each kind only, as in CI.")
@click.option("--plot", type=click.Path(file_okay=False, path_type=Path), help="Folder for plots.")
def main(seconds: float, engine: str, per_s: float, short: bool, plot: Path | None) -> None:
    """Let every dashboard be fed and every alert fire, in real Prometheus."""
    if problem := missing():
        raise click.ClickException(problem)
    plan = Plan(seconds, engine, engine == "fake", short, per_s, plot)
    document = drill(plan, Console())
    LATEST.parent.mkdir(parents=True, exist_ok=True)
    LATEST.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    sys.exit(1 if document["faults"] else 0)


def drill(plan: Plan, console: Console | None = None) -> dict[str, Any]:
    """What was seen: series by panel, seconds to fire by alert, and ``faults``, hopefully none."""
    console = console or Console(quiet=True)
    with tempfile.TemporaryDirectory(prefix="moodq-drill-") as name:
        system = System(Path(name), engine=plan.engine)
        try:
            with Redis.from_url(system.redis_url) as connection:
                return _drill(plan, Stage(system, Api(system.prometheus_url), connection), console)
        finally:
            system.close()


def _drill(plan: Plan, stage: Stage, console: Console) -> dict[str, Any]:
    began = time.time()
    fired: dict[str, float] = {}
    load = Load(stage.system.redis_url, fake=plan.engine == "fake", per_s=plan.per_s)
    with load:
        time.sleep(plan.load_s)
        fed = _wait_until_fed(stage.api)
        hungry = sorted(panel for panel, series in fed.items() if not series)
        _show(console, "Series by panel", {panel: str(series) for panel, series in fed.items()})
        if plan.plot:
            from .plots import plot_dashboards

            plot_dashboards(stage.api, began, time.time(), plan.plot)
        if plan.alerts:
            exercises = [one for one in EXERCISES if one.short or not plan.short]
            for exercise in exercises[:-1]:
                fired |= _fires(stage, exercise.do, exercise.undo, exercise.alerts, exercise.title, console)
    if plan.alerts:  # the last one takes Redis away from the load too
        last = exercises[-1]
        fired |= _fires(stage, last.do, last.undo, last.alerts, last.title, console)
    expected = {name for one in exercises for name in one.alerts} if plan.alerts else set()
    faults = [f"no data: {panel}" for panel in hungry]
    faults += [f"did not fire: {name}" for name in sorted(expected - set(fired))]
    for fault in faults:
        console.print(fault, style="red")
    return {"panels": fed, "fired_after_s": fired, "faults": faults}


def _wait_until_fed(api: Api) -> dict[str, int]:
    """Series of each query of each panel, once all have some."""
    limit = time.monotonic() + FED_S
    fed = {f"{one.dashboard}: {one.panel}: {one.legend}": 0 for one in queries()}
    while True:
        for one in queries():
            name = f"{one.dashboard}: {one.panel}: {one.legend}"
            fed[name] = max(fed[name], len(api.query(one.expr)))
        if all(fed.values()) or time.monotonic() > limit:
            return fed
        time.sleep(0.5)


def _fires(
    stage: Stage, do: Any, undo: Any, alerts: frozenset[str], title: str, console: Console
) -> dict[str, float]:
    """Seconds after which each of the alerts fired."""
    fired: dict[str, float] = {}
    began = time.monotonic()
    do(stage)
    while time.monotonic() < began + FIRES_S and len(fired) < len(alerts):
        with suppress(OSError):
            for name in stage.api.firing() & alerts:
                fired.setdefault(name, round(time.monotonic() - began, 1))
        time.sleep(0.2)
    undo(stage)
    told = ", ".join(f"{name} after {fired[name]} s" if name in fired else f"NO {name}" for name in alerts)
    console.print(f"{title}: {told}")
    return fired


def _show(console: Console, title: str, rows: dict[str, str]) -> None:
    table = Table(title=title, box=None)
    table.add_column("panel")
    table.add_column("series", justify="right")
    for row in rows.items():
        table.add_row(*row)
    console.print(table)


if __name__ == "__main__":
    main()
