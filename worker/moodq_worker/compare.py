"""``moodq bench``: speed and accuracy of precisions side by side, the engine alone, on labelled texts."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from moodq_config.errors import ConfigError
from moodq_config.settings import Settings
from moodq_config.tasks import LANGS, LabelTask, Lang, TaskSet, detect_lang
from moodq_worker.batcher import Batcher, Entry
from moodq_worker.engine import Engine
from moodq_worker.replies import SUFFIX_TOKENS
from moodq_worker.wiring import build_engine

LANE = "bench"


@dataclass(frozen=True, slots=True)
class Example:
    text: str
    label: str
    lang: Lang


@dataclass(frozen=True, slots=True)
class Measured:
    """``accuracy`` by language; ``changed`` is the share of labels that differ from the first precision's."""

    precision: str
    items_per_s: float
    tokens_per_s: float
    accuracy: dict[Lang, float]
    changed: float


def read_examples(path: Path | None, task: LabelTask) -> list[Example]:
    """Lines of ``label<TAB>text``; without a file the messages the demo ships.

    Raises ``ConfigError`` naming file and line for anything else.
    """
    if path is None:
        source = resources.files("moodq_worker").joinpath("demo_messages.toml").read_text("utf-8")
        pairs = [(m.get("label", ""), m["text"]) for m in tomllib.loads(source)["messages"]]
        return [Example(text, label, detect_lang(text)) for label, text in pairs if label in task.labels]
    examples = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        label, tab, text = line.partition("\t")
        if not line.strip():
            continue
        if not tab or label not in task.labels or not text.strip():
            raise ConfigError(
                f"{path}:{number}: must be a label, a tab and a text; labels of {task.name}: "
                f"{', '.join(task.labels)}"
            )
        examples.append(Example(text.strip(), label, detect_lang(text)))
    if not examples:
        raise ConfigError(f"{path} holds no lines of label, tab and text")
    return examples


def compare(
    settings: Settings,
    tasks: TaskSet,
    task: LabelTask,
    precisions: Sequence[str],
    examples: Sequence[Example],
) -> Iterator[Measured]:
    """Load one engine after the other and label everything twice; the second run is timed."""
    first: list[str] | None = None
    for precision in precisions:
        engine = build_engine(settings.model_copy(update={"precision": precision}))
        engine.use_tasks(tasks)
        engine.warm_up()
        budget = settings.batch_tokens or engine.best_batch_tokens()
        _label_all(engine, task.name, examples, budget)
        began = time.perf_counter()
        labels, tokens = _label_all(engine, task.name, examples, budget)
        taken = time.perf_counter() - began
        first = first or labels
        accuracy: dict[Lang, float] = {}
        for lang in LANGS:
            hits = [a == e.label for a, e in zip(labels, examples, strict=True) if e.lang == lang]
            if hits:
                accuracy[lang] = sum(hits) / len(hits)
        changed = sum(a != b for a, b in zip(labels, first, strict=True)) / len(labels)
        yield Measured(engine.info.ref.precision, len(examples) / taken, tokens / taken, accuracy, changed)
        del engine


def _label_all(engine: Engine, task: str, examples: Sequence[Example], budget: int) -> tuple[list[str], int]:
    """(labels in order, new tokens), in the batches a worker would make of them."""
    batcher: Batcher[int] = Batcher([LANE], budget=budget, share=0.0)
    encoded = engine.encode([example.text for example in examples])
    for index, (example, tokens) in enumerate(zip(examples, encoded, strict=True)):
        batcher.add(LANE, Entry(index, example.lang, len(tokens) + SUFFIX_TOKENS, index))
    labels = [""] * len(examples)
    while batch := batcher.next_batch():
        indices = [entry.item for entry in batch]
        lang = examples[indices[0]].lang
        for index, [scores] in zip(
            indices, engine.label([task], lang, [encoded[i] for i in indices]), strict=True
        ):
            labels[index] = scores.label
    return labels, sum(len(tokens) + SUFFIX_TOKENS for tokens in encoded)
