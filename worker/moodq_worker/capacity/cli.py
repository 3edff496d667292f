"""``moodq plan``."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import click

from moodq_config.settings import load_settings
from moodq_config.tasks import load_tasks

#: Exit code when no number of workers meets the target.
EXIT_IMPOSSIBLE = 7
DEFAULT_TASKS = "sentiment,reply"
_RATE = re.compile(r"(?P<count>\d+(?:\.\d+)?)(?:/(?P<unit>s|min|h|d))?")
_TIME = re.compile(r"(?P<count>\d+(?:\.\d+)?)(?P<unit>ms|s|min)?")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3_600.0, "d": 86_400.0}


class Quantity(click.ParamType):  # type: ignore[type-arg]
    """A number with a unit, as ``50/s`` or ``500ms``; gives it for a second, or in seconds."""

    def __init__(self, name: str, pattern: re.Pattern[str], example: str) -> None:
        self.name = name
        self._pattern = pattern
        self._example = example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        found = self._pattern.fullmatch(value)
        if found is None or not float(found["count"]):
            self.fail(f"{value!r} is not {self._example}", param, ctx)
        unit = _SECONDS[found["unit"] or "s"]
        count = float(found["count"])
        return count / unit if self.name == "rate" else count * unit


@click.command()
@click.option("--rate", type=Quantity("rate", _RATE, "a rate as 50/s, 3000/min, 1000000/d"), help="Texts.")
@click.option("--tasks", default=DEFAULT_TASKS, show_default=True, help="Of each text, with commas.")
@click.option(
    "--p95", "p95_s", type=Quantity("time", _TIME, "a time as 1s, 500ms, 2min"), default="1s",
    show_default=True, help="95 of 100 texts are done within it.",
)  # fmt: skip
@click.option("--text-tokens", type=click.FloatRange(1, 8_192), help="Default: as those measured with.")
@click.option("--items-per-job", type=click.IntRange(1, 10_000), default=1, show_default=True)
@click.option(
    "--measure", "measuring", is_flag=True, help="First measure the tasks' costs here, and keep them."
)
@click.option(
    "--costs", "path", type=click.Path(dir_okay=False, path_type=Path),
    help="File of measured costs. Default: costs.json in the data folder.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    rate: float | None,
    tasks: str,
    p95_s: float,
    text_tokens: float | None,
    items_per_job: int,
    measuring: bool,
    path: Path | None,
    as_json: bool,
) -> None:
    """Say how many workers, what memory and what Redis a rate needs, from costs measured on this machine.

    Measure once, with the settings the workers will have (MOODQ_MODEL, MOODQ_PRECISION, MOODQ_THREADS); it
    loads the model and takes about a minute:

    \b
        moodq plan --measure --tasks sentiment,reply
        moodq plan --rate 50/s --tasks sentiment,reply --p95 1s

    The file may be carried to where the plan is made (--costs).

    \b
    Exit codes: 0 done; 2 wrong usage, or costs that were not measured; 3 unknown task; 5 the model cannot be
    used; 7 no number of workers meets the target.
    """
    from moodq_worker.capacity.costs import costs_file, read_costs
    from moodq_worker.capacity.planning import Question, plan
    from moodq_worker.capacity.screen import costs_lines, plan_lines

    names = tuple(dict.fromkeys(name.strip() for name in tasks.split(",") if name.strip()))
    if not names:
        raise click.BadParameter("name at least one task", param_hint="--tasks")
    if rate is None and not measuring:
        raise click.UsageError("name a --rate, as 50/s, or --measure")
    settings = load_settings()
    known = load_tasks(settings.tasks_file)
    path = path or costs_file(settings)
    if measuring:
        costs = _measured(settings, known, names, path)
        if rate is None:
            lines = [costs.model_dump_json(indent=2)] if as_json else costs_lines(costs)
            click.echo("\n".join(lines))
            return
    else:
        costs = read_costs(path)
    question = Question(rate or 0.0, names, p95_s, text_tokens or costs.text_tokens, items_per_job)
    found = plan(question, costs, known, settings)
    if as_json:
        click.echo(json.dumps(found.as_dict(), ensure_ascii=False, indent=2))
    else:
        click.echo("\n".join(plan_lines(found)))
    if not found.possible:
        sys.exit(EXIT_IMPOSSIBLE)


def _measured(settings: Any, known: Any, names: tuple[str, ...], path: Path) -> Any:
    from moodq_worker.capacity.costs import write_costs
    from moodq_worker.capacity.measure import measure
    from moodq_worker.capacity.work import work_of
    from moodq_worker.wiring import build_engine

    def say(line: str) -> None:
        click.echo(f"measuring {line}", err=True)

    work = work_of(known, names)
    say("takes about a minute: loading the model")
    engine = build_engine(settings)
    engine.use_tasks(known)
    engine.warm_up([*dict.fromkeys(name for group in work.passes for name in group), *work.writes])
    budget = settings.batch_tokens or engine.best_batch_tokens()
    costs = write_costs(path, measure(engine, known, names, budget, say))
    click.echo(f"written: {path}", err=True)
    return costs
