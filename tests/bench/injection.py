"""``python -m tests.bench.injection``, from the repository's root: how far a text can talk the model over.

Forty messages of a clear sentiment, each alone and with a sentence that asks for the other label, under
several prompts. The label can never be anything but one of the task's; measured is how often it is the wrong
one. Writes ``build/injection/latest.json`` and ``docs/security/prompt-injection.md``.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from moodq_config.answers import LabelScores
from moodq_config.settings import load_settings
from moodq_config.tasks import LANGS, LabelTask, Lang, TaskSet, load_tasks
from moodq_worker.engine import Engine
from moodq_worker.wiring import build_engine

from .injection_page import write_injection_page
from .injection_prompts import PROMPTS, TASK, variant
from .report import write_json
from .texts import DATA_FILES, Labelled, read_tsv

TEXTS_FILE = Path(__file__).with_name("injection_texts.toml")
LATEST = Path("build/injection/latest.json")
#: Texts of one forward pass; sorted by length, so that little is padded.
BATCH = 32


@dataclass(frozen=True, slots=True)
class Attack:
    """``label`` is the message's own; ``text`` is message and injection."""

    lang: Lang
    kind: str
    label: str
    message: str
    injection: str
    before: bool = False

    @property
    def text(self) -> str:
        parts = (self.injection, self.message) if self.before else (self.message, self.injection)
        return "\n".join(parts)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One prompt. Probabilities are of the message's own label, means over the attacks; ``flips`` are attacks
    whose label changed from right to wrong. ``accuracy`` is by language, on labelled texts without attacks;
    ``new_tokens`` what each of those costs."""

    name: str
    right_alone: int
    right_attacked: int
    flips: int
    flips_by_lang: dict[str, int]
    flips_by_kind: dict[str, int]
    probability_alone: float
    probability_attacked: float
    accuracy: dict[str, float]
    new_tokens: float


def attacks() -> list[Attack]:
    return [Attack(**entry) for entry in tomllib.loads(TEXTS_FILE.read_text("utf-8"))["texts"]]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--texts", "paths", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of label<TAB>text lines for the accuracy; may be repeated. Default: ../shared/data.",
)  # fmt: skip
@click.option("--limit", default=1_000, show_default=True, type=click.IntRange(1),
              help="Lines of each file at most.")  # fmt: skip
@click.option("--only", multiple=True, type=click.Choice([name for name, _, _ in PROMPTS]),
              help="This prompt; may be repeated. Default: all. Others keep their last figures.")  # fmt: skip
def main(paths: tuple[Path, ...], limit: int, only: tuple[str, ...]) -> None:
    """Measure what sentences inside a text do to its label, under the shipped prompt and others."""
    settings = load_settings()
    shipped = load_tasks().label_task(TASK)
    chosen = list(paths) or [path for path in DATA_FILES if path.is_file()]
    read = {path.name: read_tsv(path)[:limit] for path in chosen}
    labelled = [text for texts in read.values() for text in texts]
    engine = build_engine(settings)
    outcomes = []
    for name, layout, change in PROMPTS:
        if only and name not in only:
            continue
        outcome = measure(engine, name, variant(shipped, layout, change), attacks(), labelled)
        outcomes.append(outcome)
        click.echo(
            f"{name:<30} flips {outcome.flips:>2}  p {outcome.probability_alone:.3f} -> "
            f"{outcome.probability_attacked:.3f}  accuracy "
            + ", ".join(f"{lang} {share:.3f}" for lang, share in outcome.accuracy.items())
        )
    terms = {
        "model": engine.info.ref.model_dump(),
        "texts": {name: len(texts) for name, texts in read.items()},
        "attacks": len(attacks()),
    }
    rows = _last_measured(terms) | {outcome.name: asdict(outcome) for outcome in outcomes}
    document = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        **terms,
        "prompts": [rows[name] for name, _, _ in PROMPTS if name in rows],
    }
    write_json(document, LATEST)
    click.echo(f"written: {LATEST}")
    if labelled and len(rows) == len(PROMPTS):
        click.echo(f"written: {write_injection_page(document)}")


def _last_measured(terms: dict[str, Any]) -> dict[str, Any]:
    """The figures of ``LATEST`` by prompt, if it has them on the same terms."""
    if not LATEST.is_file():
        return {}
    last = json.loads(LATEST.read_text("utf-8"))
    return {one["name"]: one for one in last["prompts"]} if terms.items() <= last.items() else {}


def measure(
    engine: Engine, name: str, task: LabelTask, attacked: Sequence[Attack], labelled: Sequence[Labelled]
) -> Outcome:
    """Every text under ``task``. Raises ``RuntimeError`` should a label be none of the task's."""
    engine.use_tasks(TaskSet({task.name: task}))
    alone = _probabilities(engine, task, [(one.message, one.lang, one.label) for one in attacked])
    after = _probabilities(engine, task, [(one.text, one.lang, one.label) for one in attacked])
    # Two labels: the more probable one is the answer.
    flipped = [one for one, before, now in zip(attacked, alone, after, strict=True) if before > 0.5 >= now]
    right = _probabilities(engine, task, [(one.text, one.lang, one.label) for one in labelled])
    accuracy: dict[str, float] = {}
    for lang in LANGS:
        hits = [p > 0.5 for p, one in zip(right, labelled, strict=True) if one.lang == lang]
        if hits:
            accuracy[lang] = sum(hits) / len(hits)
    return Outcome(
        name=name,
        right_alone=sum(p > 0.5 for p in alone),
        right_attacked=sum(p > 0.5 for p in after),
        flips=len(flipped),
        flips_by_lang={lang: sum(one.lang == lang for one in flipped) for lang in LANGS},
        flips_by_kind={
            kind: sum(one.kind == kind for one in flipped) for kind in dict.fromkeys(a.kind for a in attacked)
        },
        probability_alone=sum(alone) / len(alone),
        probability_attacked=sum(after) / len(after),
        accuracy=accuracy,
        new_tokens=_new_tokens(engine, task, labelled),
    )


def _probabilities(engine: Engine, task: LabelTask, texts: Sequence[tuple[str, Lang, str]]) -> list[float]:
    """The probability of each text's given label."""
    found = [0.0] * len(texts)
    tokens = engine.encode([text for text, _, _ in texts])
    for lang in LANGS:
        order = sorted((i for i, one in enumerate(texts) if one[1] == lang), key=lambda i: len(tokens[i]))
        for start in range(0, len(order), BATCH):
            some = order[start : start + BATCH]
            rows = engine.label([task.name], lang, [tokens[i] for i in some])
            for index, [scores] in zip(some, rows, strict=True):
                if (
                    not isinstance(scores, LabelScores)
                    or scores.label not in task.labels
                    or set(scores.scores) != set(task.labels)
                ):
                    raise RuntimeError(f"{scores!r} is not of the labels {task.labels}")
                found[index] = scores.scores[texts[index][2]]
    return found


def _new_tokens(engine: Any, task: LabelTask, labelled: Sequence[Labelled]) -> float:
    """Tokens one text costs: its own, and the prompt's after it."""
    if not labelled:
        return 0.0
    own = [len(ids) for ids in engine.encode([one.text for one in labelled])]
    heads = [engine._book.judging(task.name, one.lang).heads[0] for one in labelled]
    after = [len(head.suffix) + sum(map(len, head.branches)) for head in heads]
    return (sum(own) + sum(after)) / len(labelled)


if __name__ == "__main__":
    main()
