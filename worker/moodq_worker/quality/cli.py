"""``moodq eval``. Heavy imports happen inside the command."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moodq_config.errors import ConfigError
from moodq_config.settings import Settings, load_settings
from moodq_config.tasks import LabelTask, TaskSet, load_tasks

if TYPE_CHECKING:
    from moodq_worker.quality.evaluate import Way

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("eval", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("data", nargs=-1, type=FILE)
@click.option("--task", default="sentiment", show_default=True, help="A label task.")
@click.option("--tasks-file", "tasks_files", multiple=True, type=FILE,
              help="Compare the prompts of this file with those in force; may be repeated.")  # fmt: skip
@click.option("--precision", "precisions", multiple=True,
              type=click.Choice(["auto", "bf16", "int8", "fp32", "fp16"]),
              help="May be repeated. Default: MOODQ_PRECISION.")  # fmt: skip
@click.option("--model", "models", multiple=True, help="May be repeated. Default: MOODQ_MODEL.")
@click.option("--sample", type=click.IntRange(10), help="So many texts of each file, the same every time.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
@click.option("--report", type=click.Path(dir_okay=False, path_type=Path),
              help="Write a page with plots; needs the extra: pip install 'moodq[eval]'.")  # fmt: skip
def evaluate_command(
    data: tuple[Path, ...],
    task: str,
    tasks_files: tuple[Path, ...],
    precisions: tuple[str, ...],
    models: tuple[str, ...],
    sample: int | None,
    as_json: bool,
    report: Path | None,
) -> None:
    """Judge a label task on labelled texts: is it right, and do its probabilities mean what they say?

    \b
    moodq eval reviews.tsv --task sentiment
    moodq eval zh.tsv en.tsv --tasks-file mine.toml --report report.html
    moodq eval reviews.tsv --precision bf16 --precision int8 --json

    DATA are files of label, tab, text, one a line; without any, the demo's messages, too few to judge by.
    The engine runs here, without queue and worker. Several prompts, models or precisions are run on the same
    texts and compared in pairs, so that chance is not taken for progress.

    \b
    Exit codes: 0 done; 2 wrong usage, file or setting; 5 the model cannot be used.
    """
    if report is not None:
        _need_matplotlib()
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from moodq_worker.quality.evaluate import as_json as figures_of
    from moodq_worker.quality.evaluate import evaluate
    from moodq_worker.quality.examples import read_examples, sampled
    from moodq_worker.quality.screen import show

    settings = load_settings()
    ways = _ways(
        settings, task, tasks_files, precisions or (settings.precision,), models or (settings.model,)
    )
    examples = [
        example for path in data or (None,) for example in sampled(read_examples(path, ways[0].task), sample)
    ]
    screen = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=screen, disable=not screen.is_terminal,
    ) as progress:  # fmt: skip
        bar = progress.add_task("labelling", total=len(examples) * len(ways))
        evaluated = list(evaluate(ways, examples, lambda count: progress.advance(bar, count)))
    document = {"task": task, "data": [path.name for path in data], **figures_of(evaluated)}
    if as_json:
        click.echo(json.dumps(document, ensure_ascii=False, indent=1))
    else:
        show(Console(), document)
    if report is not None:
        from moodq_worker.quality.report import page

        report.write_text(page(document, f"{task} on {', '.join(document['data']) or 'the demo'}"), "utf-8")
        click.echo(f"written: {report}", err=True)


def _ways(
    settings: Settings,
    task: str,
    tasks_files: tuple[Path, ...],
    precisions: tuple[str, ...],
    models: tuple[str, ...],
) -> list[Way]:
    from moodq_worker.quality.evaluate import Way

    ways: list[Way] = []
    for model in models:
        for precision in precisions:
            for path in (settings.tasks_file, *tasks_files):
                tasks, chosen = label_task(path, task, ways[0].task if ways else None)
                words = [
                    *([model] if len(models) > 1 else []),
                    *([precision] if len(precisions) > 1 else []),
                    *([path.name if path else "shipped"] if tasks_files else []),
                ]
                changed = settings.model_copy(update={"model": model, "precision": precision})
                ways.append(Way(" ".join(words) or task, changed, tasks, chosen))
    return ways


def label_task(path: Path | None, name: str, first: LabelTask | None) -> tuple[TaskSet, LabelTask]:
    """The tasks of a file and the one to judge, which must have the labels of ``first``, if there is one."""
    tasks = load_tasks(path)
    chosen = tasks.get(name)
    if not isinstance(chosen, LabelTask):
        names = ", ".join(one.name for one in tasks.labels())
        raise click.BadParameter(f"{name!r} is not a label task; these are: {names}", param_hint="--task")
    if first is not None and chosen.labels != first.labels:
        raise ConfigError(
            f"{path}: tasks.{name}.labels are {list(chosen.labels)}, those it is compared with "
            f"{list(first.labels)}; only tasks of the same labels can be compared"
        )
    return tasks, chosen


def _need_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError:
        click.echo("--report needs matplotlib; install it with: pip install 'moodq[eval]'", err=True)
        sys.exit(2)
