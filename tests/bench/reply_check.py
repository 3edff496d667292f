"""``python -m tests.bench.reply_check``, from the repository's root: the reply task on a hundred messages.

The engine runs here, without queue and worker, with the shipped task: first the label that steers a reply,
then all replies in one decode batch. Writes ``build/replies/latest.json`` and ``docs/replies.md``, for a
person to judge what measures cannot.
"""

from __future__ import annotations

import time
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import click

from moodq_config.answers import LabelScores
from moodq_config.settings import load_settings
from moodq_config.task_kinds import GenerateTask
from moodq_config.tasks import LANGS, Lang, TaskSet, load_tasks
from moodq_worker.engine import Engine, Generation
from moodq_worker.quality.reply_measures import Flaw, flaws
from moodq_worker.wiring import build_engine

from .reply_page import PAGE, write_reply_page
from .report import write_json

TASK = "reply"
MESSAGES_FILE = Path(__file__).with_name("customer_messages.toml")
LATEST = Path("build/replies/latest.json")
#: Texts of one forward pass, and of one decode batch.
BATCH = 25


@dataclass(frozen=True, slots=True)
class Message:
    lang: Lang
    mood: str
    domain: str
    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """``label`` is what steered the reply; ``flaws`` maps what was found to the words that show it."""

    lang: Lang
    mood: str
    domain: str
    text: str
    label: str
    reply: str
    tokens: int
    finish_reason: str
    flaws: Mapping[Flaw, str]


def read_messages(path: Path) -> list[Message]:
    return [Message(**entry) for entry in tomllib.loads(path.read_text("utf-8"))["messages"]]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--tasks-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Try the reply task of this file; then only the figures are printed.")  # fmt: skip
def main(tasks_file: Path | None) -> None:
    """Answer the check set with the reply task, measure the replies and write the page."""
    settings = load_settings()
    tasks = load_tasks(tasks_file)
    engine = build_engine(settings)
    engine.use_tasks(tasks)
    began = time.perf_counter()
    answered = answer(engine, tasks, read_messages(MESSAGES_FILE))
    seconds = time.perf_counter() - began
    for flaw in Flaw:
        shown = [f"{one.flaws[flaw]!r}" for one in answered if flaw in one.flaws]
        click.echo(f"{flaw.value:<11} {len(shown):>3} of {len(answered)}  {'; '.join(shown)}")
    if tasks_file is not None:
        for one in answered:
            click.echo(f"[{one.label}] {one.text}\n    {one.reply}  {' '.join(one.flaws)}")
        return
    document = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": engine.info.ref.model_dump(),
        "seconds": round(seconds, 1),
        "answered": [asdict(one) for one in answered],
    }
    write_json(document, LATEST)
    click.echo(f"written: {LATEST}\nwritten: {write_reply_page(document, PAGE)}")


def answer(engine: Engine, tasks: TaskSet, messages: Sequence[Message]) -> list[Answered]:
    """Every message with its reply, in the order given."""
    task = tasks[TASK]
    assert isinstance(task, GenerateTask)
    encoded = engine.encode([message.text for message in messages])
    labels: dict[int, str] = {}
    for lang in LANGS:
        order = [index for index, message in enumerate(messages) if message.lang == lang]
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            found = engine.label([task.after or ""], lang, [encoded[index] for index in some])
            for index, [scores] in zip(some, found, strict=True):
                assert isinstance(scores, LabelScores)
                labels[index] = scores.label
    answered: list[Answered | None] = [None] * len(messages)
    for start in range(0, len(messages), BATCH):
        some = list(range(start, min(start + BATCH, len(messages))))
        engine.admit([Generation(i, TASK, messages[i].lang, labels[i], encoded[i]) for i in some])
        texts = dict.fromkeys(some, "")
        while engine.running or any(answered[index] is None for index in some):
            for event in engine.step():
                texts[event.key] += event.text
                if event.error is not None:
                    raise RuntimeError(f"{messages[event.key].text!r}: {event.error}")
                if event.finish_reason is not None:
                    message, reply = messages[event.key], texts[event.key].strip()
                    answered[event.key] = Answered(
                        **asdict(message),
                        label=labels[event.key],
                        reply=reply,
                        tokens=event.tokens,
                        finish_reason=event.finish_reason,
                        flaws=flaws(message.text, reply, message.lang, finish_reason=event.finish_reason),
                    )
    return [one for one in answered if one is not None]


if __name__ == "__main__":
    main()
