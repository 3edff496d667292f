"""``moodq tune``. Heavy imports happen inside the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moodq_config.errors import ConfigError
from moodq_config.settings import load_settings
from moodq_config.tasks import LANGS
from moodq_worker.quality.cli import FILE, label_task

if TYPE_CHECKING:
    from moodq_config.contracts import ModelRef
    from moodq_config.tasks import Lang
    from moodq_worker.quality.tune import Tried


@click.command("tune", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("data", nargs=-1, required=True, type=FILE)
@click.option("--task", default="sentiment", show_default=True, help="A label task.")
@click.option("--tasks-file", "tasks_files", multiple=True, type=FILE,
              help="Try the task's prompts of this file too; may be repeated.")  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path),
              help="The task file to write; must not be there yet.")  # fmt: skip
@click.option("--sample", type=click.IntRange(10), help="So many texts of each file, the same every time.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def tune_command(
    data: tuple[Path, ...],
    task: str,
    tasks_files: tuple[Path, ...],
    output: Path,
    sample: int | None,
    as_json: bool,
) -> None:
    """Fit a label task to labelled texts, without training: choose its prompt, and correct its probabilities.

    \b
    moodq tune reviews.tsv --task sentiment -o tuned.toml
    moodq tune zh.tsv en.tsv --tasks-file other.toml -o tuned.toml

    DATA are files of label, tab, text, one a line, and should be as the texts to come will be: of their kind,
    length and mix of labels. The model runs once over them for each prompt. In each language temperature and
    bias are fitted and told by 5-fold cross-validation; another prompt takes the place of the one in force
    only where it is better by more than chance. Put what is written into your MOODQ_TASKS_FILE.

    \b
    Exit codes: 0 done; 2 wrong usage, file or setting; 5 the model cannot be used.
    """
    if output.exists():
        raise click.BadParameter(f"{output} is there already; name another", param_hint="--output")
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from moodq_config.task_toml import task_toml
    from moodq_worker.quality.examples import read_examples, sampled
    from moodq_worker.quality.screen import show_tuned
    from moodq_worker.quality.tune import Candidate, too_few, tried, winner
    from moodq_worker.wiring import build_engine

    settings = load_settings()
    candidates: list[Candidate] = []
    for path in (settings.tasks_file, *tasks_files):
        tasks, chosen = label_task(path, task, candidates[0].task if candidates else None)
        candidates.append(Candidate(str(path or "shipped"), tasks, chosen))
    first = candidates[0].task
    examples = [one for path in data for one in sampled(read_examples(path, first), sample)]
    screen = Console(stderr=True)
    left_out = {lang: reason for lang in LANGS if (reason := too_few(examples, first, lang))}
    for lang, reason in left_out.items():
        screen.print(f"{lang} stays as it is: {reason}", highlight=False)
    examples = [one for one in examples if one.lang not in left_out]
    if not examples:
        raise ConfigError(f"there are too few texts to tune {task}: {'; '.join(left_out.values())}")

    engine = build_engine(settings)
    engine.use_tasks(candidates[0].tasks)
    engine.warm_up([task])
    budget = settings.batch_tokens or engine.best_batch_tokens()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=screen, disable=not screen.is_terminal,
    ) as progress:  # fmt: skip
        bar = progress.add_task("labelling", total=len(examples) * len(candidates))
        found = list(tried(engine, candidates, examples, budget, lambda count: progress.advance(bar, count)))
    written, chosen_by_lang = winner(found)
    document = _document(task, data, engine.info.ref, found, chosen_by_lang)
    output.write_text(task_toml(written, _comment(document)), "utf-8")
    if as_json:
        click.echo(json.dumps(document, ensure_ascii=False, indent=1))
    else:
        show_tuned(Console(), document)
    click.echo(f"written: {output}", err=True)


def _document(
    task: str, data: tuple[Path, ...], model: ModelRef, found: list[Tried], chosen: dict[Lang, Tried]
) -> dict[str, Any]:
    from moodq_worker.quality.measures import told

    return {
        "task": task,
        "data": [path.name for path in data],
        "model": model.model_dump(),
        "tried": [
            {
                "prompt": one.candidate.name,
                "lang": one.lang,
                "texts": len(one.fitted.truth),
                "as_is": told(one.as_is),
                "fitted": told(one.fitted),
                "difference": {"log_loss": one.to_first.rounded()},
                "bias": dict(zip(one.candidate.task.labels, one.calibration.bias, strict=True)),
                "temperature": one.calibration.temperature,
                "chosen": chosen[one.lang] is one,
                "fit_kept": one.better,
            }
            for one in found
        ],
    }


def _comment(document: dict[str, Any]) -> list[str]:
    model = document["model"]
    lines = [
        f"Written by moodq tune from {', '.join(document['data'])},",
        f"for {model['id']}, revision {model['revision']}, {model['precision']}. Cross-validated:",
    ]
    for one in document["tried"]:
        if one["chosen"]:
            now = one["fitted" if one["fit_kept"] else "as_is"]
            lines.append(
                f"{one['lang']}, {one['texts']} texts: log loss {now['log_loss']['value']:.3f}, "
                f"accuracy {now['accuracy']['value']:.3f}, ECE {now['ece']['value']:.3f}."
            )
    return lines
