"""``moodq tasks list | show | check | try``: see which tasks are in force, look for faults in a file before
it is saved where workers read it, and try one on a text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from moodq_config.cli_tasks_try import try_command
from moodq_config.errors import BadInput, ConfigError, ErrorCode
from moodq_config.printable import escaped, printable
from moodq_config.settings import load_settings
from moodq_config.task_check import Checked, check_file
from moodq_config.task_toml import task_toml
from moodq_config.tasks import (
    LANGS,
    ChooseTask,
    ExtractTask,
    LabelTask,
    MultilabelTask,
    RerankTask,
    ScoreTask,
    Task,
    TaskSet,
    load_tasks,
    shipped_tasks,
)

CONTEXT = {"help_option_names": ["-h", "--help"]}
SHIPPED = "shipped"
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
file_option = click.option(
    "--file", "path", type=FILE, help="This tasks file in the place of MOODQ_TASKS_FILE."
)


@click.group("tasks", context_settings=CONTEXT)
def tasks() -> None:
    """See, check and try tasks: what the model is asked, and what it answers.

    \b
    moodq tasks list
    moodq tasks show sentiment > mine.toml      # edit it, then
    moodq tasks check mine.toml
    moodq tasks try sentiment "等了两个小时" --file mine.toml
    export MOODQ_TASKS_FILE=mine.toml
    """


tasks.add_command(try_command)


@tasks.command("list", context_settings=CONTEXT)
@file_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list.")
def list_command(path: Path | None, as_json: bool) -> None:
    """List the tasks in force: kind, what can come out, where the definition stands, its revision.

    \b
    Exit codes: 0 listed; 2 the tasks file is broken or a setting wrong.
    """
    known, own, source = _in_force(path)
    rows = [_described(known, name, source if name in own else SHIPPED) for name in known]
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("task", "kind", "gives", "from", "revision"):
        table.add_column(title, overflow="fold")
    for row in rows:
        origin = f"{row['from']} (replaces the shipped one)" if row["replaces_shipped"] else row["from"]
        cells = (row["name"], row["kind"], row["gives"], origin, row["revision"])
        table.add_row(*(Text(printable(cell)) for cell in cells))
    Console().print(table)


@tasks.command(context_settings=CONTEXT)
@click.argument("name")
@file_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def show(name: str, path: Path | None, as_json: bool) -> None:
    """Print a task as TOML, with where it stands and its revision, to be copied and edited.

    What is as the kind's default is left out.

    \b
    Exit codes: 0 shown; 2 the tasks file is broken or a setting wrong; 3 no such task.
    """
    known, own, source = _in_force(path)
    task = _task(known, name)
    described = _described(known, name, source if name in own else SHIPPED)
    if as_json:
        click.echo(json.dumps({**described, "toml": task_toml(task)}, ensure_ascii=False, indent=1))
        return
    comment = [f"{name}: {described['from']}, revision {described['revision']}"]
    if described["replaces_shipped"]:
        comment.append("It replaces the shipped task of this name.")
    click.echo(escaped(task_toml(task, comment), keep="\n"), nl=False)


@tasks.command(context_settings=CONTEXT)
@click.argument("path", metavar="[FILE]", required=False, type=FILE)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def check(path: Path | None, as_json: bool) -> None:
    """Tell all that is wrong with a tasks file (default: MOODQ_TASKS_FILE): file, line, field, what to do.

    A file that passes is one that a running worker takes when it is saved.

    \b
    Exit codes: 0 in order; 2 something is wrong, or the file cannot be read.
    """
    settings = load_settings()
    path = path or settings.tasks_file
    if path is None:
        if as_json:
            click.echo(json.dumps({"file": None, "tasks": [], "faults": [], "not_checked": []}))
        else:
            click.echo(f"MOODQ_TASKS_FILE is not set; the {len(load_tasks())} shipped tasks are in order")
        return
    checked = check_file(path, settings.warm_tasks)
    if as_json:
        click.echo(json.dumps(_as_json(checked), ensure_ascii=False, indent=1))
    else:
        for fault in checked.faults:
            click.echo(printable(fault.told(str(path))))
        for name in checked.left_out:
            click.echo(f"not checked: {name}; install it with: pip install 'moodq[worker]'", err=True)
    if checked.faults:
        many = "1 fault" if len(checked.faults) == 1 else f"{len(checked.faults)} faults"
        raise ConfigError(f"{many} in {path}; workers would refuse it", code=ErrorCode.TASKS_INVALID)
    if not as_json:
        replaced = ", ".join(name for name in checked.own if name in shipped_tasks())
        click.echo(
            printable(
                f"{path}: in order: {', '.join(checked.own)}"
                + (f"; in the place of shipped ones: {replaced}" if replaced else "")
                + f"; revision {checked.tasks.revision}"
            )
        )


def _in_force(path: Path | None) -> tuple[TaskSet, set[str], str]:
    """The tasks, the names of those that are not as shipped, and the file these stand in."""
    path = path or load_settings().tasks_file
    known, shipped = load_tasks(path), shipped_tasks()
    return known, {name for name in known if known[name] != shipped.get(name)}, str(path)


def _task(known: TaskSet, name: str) -> Task:
    if name not in known:
        raise BadInput(
            f"{name!r} is not a task; known: {', '.join(sorted(known))}", code=ErrorCode.UNKNOWN_TASK
        )
    return known[name]


def _described(known: TaskSet, name: str, source: str) -> dict[str, Any]:
    task = known[name]
    return {
        "name": name,
        "kind": task.kind,
        "description": task.description,
        "gives": _gives(task),
        "languages": [lang for lang in LANGS if lang in task.prompt],
        "from": source,
        "replaces_shipped": source != SHIPPED and name in shipped_tasks(),
        "revision": known.revision_of(name),
    }


def _gives(task: Task) -> str:
    match task:
        case LabelTask():
            return ", ".join(task.labels)
        case MultilabelTask():
            return f"any of {', '.join(task.labels)}"
        case ScoreTask():
            return f"{min(task.values.values()):g} to {max(task.values.values()):g}"
        case ChooseTask():
            return "one of the request's labels"
        case RerankTask():
            return "the request's documents by relevance"
        case ExtractTask():
            fields = task.json_schema.get("properties")
            return f"JSON: {', '.join(fields)}" if isinstance(fields, dict) else "JSON"
    return f"text, at most {task.max_new_tokens} tokens"


def _as_json(checked: Checked) -> dict[str, Any]:
    return {
        "file": str(checked.path),
        "tasks": list(checked.own),
        "faults": [
            {"line": fault.line, "field": fault.field, "message": fault.message} for fault in checked.faults
        ],
        "not_checked": checked.left_out,
    }
