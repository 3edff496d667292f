"""``moodq bench``: speed and accuracy of precisions side by side, the engine alone, on labelled texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from moodq_config.settings import Settings
from moodq_config.tasks import LANGS, LabelTask, Lang, TaskSet
from moodq_worker.quality.examples import Example
from moodq_worker.quality.measures import accuracy
from moodq_worker.quality.predict import Predictions, predict
from moodq_worker.wiring import build_engine


@dataclass(frozen=True, slots=True)
class Measured:
    """``accuracy`` by language; ``changed`` is the share of labels that differ from the first precision's."""

    precision: str
    items_per_s: float
    tokens_per_s: float
    accuracy: dict[Lang, float]
    changed: float


def compare(
    settings: Settings,
    tasks: TaskSet,
    task: LabelTask,
    precisions: Sequence[str],
    examples: Sequence[Example],
) -> Iterator[Measured]:
    """Load one engine after the other and label everything twice; the second run is timed."""
    first: Predictions | None = None
    langs = np.array([example.lang for example in examples])
    for precision in precisions:
        engine = build_engine(settings.model_copy(update={"precision": precision}))
        engine.use_tasks(tasks)
        engine.warm_up([task.name])
        budget = settings.batch_tokens or engine.best_batch_tokens()
        predict(engine, task, examples, budget)
        found = predict(engine, task, examples, budget)
        first = first or found
        yield Measured(
            engine.info.ref.precision,
            len(examples) / found.seconds,
            found.tokens / found.seconds,
            {lang: accuracy(found.only(langs == lang)) for lang in LANGS if (langs == lang).any()},
            float((found.chosen != first.chosen).mean()),
        )
        del engine
