"""Labels of examples from an engine, in the batches a worker would make of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moodq_config.answers import LabelScores
from moodq_config.tasks import LabelTask
from moodq_worker.batcher import Batcher, Entry
from moodq_worker.engine import Engine
from moodq_worker.quality.examples import Example
from moodq_worker.replies import SUFFIX_TOKENS

LANE = "eval"


@dataclass(frozen=True, slots=True)
class Predictions:
    """``probabilities`` are ``[examples, labels]``, labels in the order of the task; ``tokens`` new ones."""

    labels: tuple[str, ...]
    truth: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    seconds: float
    tokens: int

    @property
    def chosen(self) -> NDArray[np.int64]:
        chosen: NDArray[np.int64] = self.probabilities.argmax(axis=1)
        return chosen

    def only(self, which: NDArray[np.bool_]) -> Predictions:
        """Those of the examples where ``which`` is True."""
        share = float(which.mean()) if len(which) else 0.0
        return Predictions(
            self.labels,
            self.truth[which],
            self.probabilities[which],
            self.seconds * share,
            int(self.tokens * share),
        )


def predict(
    engine: Engine,
    task: LabelTask,
    examples: Sequence[Example],
    budget: int,
    done: Callable[[int], None] = lambda count: None,
) -> Predictions:
    """``done`` hears how many examples more have their labels. Needs an engine that has the task."""
    batcher: Batcher[int] = Batcher([LANE], budget=budget, share=0.0)
    encoded = engine.encode([example.text for example in examples])
    for index, (example, tokens) in enumerate(zip(examples, encoded, strict=True)):
        batcher.add(LANE, Entry(index, example.lang, len(tokens) + SUFFIX_TOKENS, index))
    probabilities = np.zeros((len(examples), len(task.labels)))
    began = time.perf_counter()
    while batch := batcher.next_batch():
        indices = [entry.item for entry in batch]
        lang = examples[indices[0]].lang
        for index, [scores] in zip(
            indices, engine.label([task.name], lang, [encoded[i] for i in indices]), strict=True
        ):
            assert isinstance(scores, LabelScores)  # noqa: S101 - it is a label task
            probabilities[index] = [scores.scores[label] for label in task.labels]
        done(len(indices))
    return Predictions(
        labels=task.labels,
        truth=np.array([task.labels.index(example.label) for example in examples]),
        probabilities=probabilities,
        seconds=time.perf_counter() - began,
        tokens=sum(len(tokens) + SUFFIX_TOKENS for tokens in encoded),
    )
