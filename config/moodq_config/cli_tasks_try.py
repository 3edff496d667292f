"""``moodq tasks try``: one text by one task, once, by the model itself or through running workers.

Neither is known here: who can run a text registers a function in the entry-point group ``TRY_GROUP``,
``Callable[[Settings, TaskSet, RequestItem, float], Result]``, the last being seconds to wait at most. The
one named ``here`` needs the worker's extra, ``queue`` a Redis and workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moodq_config.errors import ConfigError, ErrorCode
from moodq_config.printable import escaped, printable, printable_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from moodq_config.answers import Answer
    from moodq_config.contracts import RequestItem, Result
    from moodq_config.settings import Settings
    from moodq_config.tasks import TaskSet

TRY_GROUP = "moodq.tasks.try"
EXIT_FAILED_ITEM = 3
#: Stages that a text passes which is run here: it waits for nothing.
TIMED_HERE = ("prefill", "decode", "total")


@click.command("try", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name")
@click.argument("text")
@click.option("--file", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="This tasks file in the place of MOODQ_TASKS_FILE.")  # fmt: skip
@click.option("--lang", type=click.Choice(["zh", "en"]), help="Language of the prompt; else by the text.")
@click.option("--labels", help="What a task as topic chooses among, separated by commas.")
@click.option("--document", "documents", multiple=True, help="What a task as rerank ranks; once for each.")
@click.option("--queue", "on_queue", is_flag=True, help="Through running workers, by the tasks they know.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=60.0, show_default=True,
              help="Seconds to wait for a result with --queue.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
@click.pass_context
def try_command(
    ctx: click.Context,
    name: str,
    text: str,
    path: Path | None,
    lang: str | None,
    labels: str | None,
    documents: tuple[str, ...],
    on_queue: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Run one text through one task and print all that comes out, with the time it took.

    \b
    moodq tasks try sentiment "等了两个小时还没到，差评"
    moodq tasks try reply "My package arrived broken." --file mine.toml
    moodq tasks try topic "The parcel is late." --labels delivery,refund
    moodq tasks try sentiment "太棒了！" --queue

    The model is loaded here, without Redis; that takes some seconds, which are not counted. With --queue the
    text goes through the first queue as any other.

    \b
    Exit codes: 0 done; 2 wrong setting or tasks file; 3 the text or an option does not fit the task, or the
    item failed; 4 Redis does not answer; 5 the model cannot be used; 6 no result in time.
    """
    from moodq_config.contracts import ItemLimits, parse_item
    from moodq_config.settings import load_settings
    from moodq_config.tasks import load_tasks

    if on_queue and path is not None:
        raise click.UsageError("--file goes without --queue: workers read their own MOODQ_TASKS_FILE")
    settings = load_settings()
    tasks = load_tasks(path or settings.tasks_file)
    given = {
        "text": text,
        "tasks": [name],
        "lang": lang,
        "labels": [label.strip() for label in labels.split(",") if label.strip()] if labels else None,
        "documents": list(documents) or None,
    }
    limits = ItemLimits(
        max_text_chars=settings.max_text_chars,
        long_text=settings.long_text,
        task_names=frozenset(tasks),
        needs=tasks.needs,
    )
    item = parse_item({field: value for field, value in given.items() if value is not None}, limits)
    result = _runner("queue" if on_queue else "here")(settings, tasks, item, timeout)
    if as_json:
        click.echo(printable_json(result.model_dump_json(exclude_none=True)))
    elif result.error is not None:
        click.echo(printable(f"moodq: {result.error.code}: {result.error.message}"), err=True)
    else:
        for line in _lines(name, result):
            click.echo(line)
    ctx.exit(EXIT_FAILED_ITEM if result.error is not None else 0)


def _runner(name: str) -> Callable[[Settings, TaskSet, RequestItem, float], Result]:
    found = [point for point in entry_points(group=TRY_GROUP) if point.name == name]
    if not found:
        raise ConfigError(
            f"nothing installed runs a text {name!r}; install moodq again: pip install 'moodq[worker]'",
            code=ErrorCode.NOT_INSTALLED,
        )
    runner: Callable[[Settings, TaskSet, RequestItem, float], Result] = found[0].load()
    return runner


def _lines(name: str, result: Result) -> Iterator[str]:
    yield from _shown(name, result.results[name])
    told = []
    if (spent := result.timings_ms) is not None:
        stages = ("queue", "batch", "prefill", "decode", "total") if result.worker else TIMED_HERE
        told.append(", ".join(f"{stage} {getattr(spent, stage):.1f} ms" for stage in stages))
    if result.model is not None:
        told.append(f"{result.model.id} {result.model.revision[:12]} {result.model.precision}")
    if result.revisions:
        told.append(f"task revision {result.revisions[name]}")
    if result.cached:
        told.append(f"answered from the cache ({result.cached})")
    if result.truncated is not None:
        told.append("only the text's beginning was read")
    yield printable("; ".join(told))


def _shown(name: str, answer: Answer) -> Iterator[str]:
    """An answer with every probability, the highest first."""
    import json

    from moodq_config.answers import (
        ChosenLabel,
        Extracted,
        GeneratedText,
        LabelScores,
        LabelSet,
        Ranking,
        Score,
    )

    scores: dict[str, float] = {}
    match answer:
        case LabelScores():
            yield printable(f"{name}: {answer.label} {answer.probability:.3f}")
            scores = answer.scores
        case ChosenLabel():
            yield printable(f"{name}: {answer.label}")
        case LabelSet():
            yield printable(f"{name}: {', '.join(answer.labels) or 'none'}")
            scores = answer.scores
        case Score():
            yield printable(f"{name}: {answer.score:.3f}")
            scores = answer.scores
        case Ranking():
            yield printable(f"{name}: {', '.join(map(str, answer.ranking))}")
            scores = {str(number): score for number, score in enumerate(answer.scores)}
        case GeneratedText():
            yield escaped(answer.text, keep="\n")
            ended = "ended" if answer.finish_reason == "stop" else "cut at the task's max_new_tokens"
            yield f"{answer.tokens} tokens, {ended}"
        case Extracted():
            yield escaped(json.dumps(answer.data, ensure_ascii=False, indent=1), keep="\n")
            yield f"{answer.tokens} tokens"
    width = max((len(printable(label)) for label in scores), default=0)
    for label, score in sorted(scores.items(), key=lambda pair: -pair[1]):
        yield f"  {printable(label):<{width}}  {score:.3f}"
