"""Figures of predictions: right or wrong, and whether a probability means what it says.

Intervals are by the bootstrap (Efron 1979): the examples drawn again with replacement, the figure taken
each time, the middle 95 % of what comes out. Two ways of labelling the same examples are compared on the same
draws.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moodq_worker.quality.predict import Predictions

#: Equally wide bins of the highest probability (Guo et al. 2017, expected calibration error).
BINS = 10
#: A probability of 0 given to what is right would be an endless loss.
LEAST = 1e-15
DRAWS = 1_000
SEED = 20_260_101
LEVEL = 0.95
#: Shares of the texts, the most certain ones, for which accuracy is told.
COVERAGES = (1.0, 0.95, 0.9, 0.8, 0.7, 0.5)

Figure = Callable[[Predictions], float]


@dataclass(frozen=True, slots=True)
class Interval:
    value: float
    low: float
    high: float

    def rounded(self) -> dict[str, float]:
        return {"value": round(self.value, 4), "low": round(self.low, 4), "high": round(self.high, 4)}


@dataclass(frozen=True, slots=True)
class Bin:
    """Texts whose probability lies within; ``confidence`` and ``accuracy`` are their means."""

    low: float
    high: float
    count: int
    confidence: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Covered:
    """The most certain ``coverage`` of the texts: those at or above ``threshold``, and how many are right."""

    coverage: float
    threshold: float
    accuracy: float


def accuracy(found: Predictions) -> float:
    return float((found.chosen == found.truth).mean())


def confusion(found: Predictions) -> NDArray[np.int64]:
    """Counts, ``[truth, chosen]``."""
    size = len(found.labels)
    flat = np.bincount(found.truth * size + found.chosen, minlength=size * size)
    return flat.reshape(size, size)


def balanced_accuracy(found: Predictions) -> float:
    """The mean over the labels that occur of how many of theirs are found."""
    counts = confusion(found)
    occurring = counts.sum(axis=1)
    recalls = counts.diagonal()[occurring > 0] / occurring[occurring > 0]
    return float(recalls.mean())


def f1_by_label(found: Predictions) -> dict[str, float]:
    """Harmonic mean of precision and recall of each label; 0 for one that neither occurs nor is given."""
    counts = confusion(found)
    both = counts.sum(axis=0) + counts.sum(axis=1)
    scores = np.divide(2 * counts.diagonal(), both, out=np.zeros(len(both)), where=both > 0)
    return {label: float(score) for label, score in zip(found.labels, scores, strict=True)}


def reliability(found: Predictions) -> list[Bin]:
    """The bins that hold any text."""
    confidence = found.probabilities.max(axis=1)
    right = found.chosen == found.truth
    place = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        Bin(
            number / BINS,
            (number + 1) / BINS,
            int(here.sum()),
            float(confidence[here].mean()),
            float(right[here].mean()),
        )
        for number in range(BINS)
        if (here := place == number).any()
    ]


def ece(found: Predictions) -> float:
    """Expected calibration error: how far a probability given is from the share that is right, on average."""
    bins = reliability(found)
    return sum(one.count * abs(one.confidence - one.accuracy) for one in bins) / len(found.truth)


def log_loss(found: Predictions) -> float:
    """The mean of what the right label's probability lacks, in nats: both being wrong and being too sure."""
    right = found.probabilities[np.arange(len(found.truth)), found.truth]
    return float(-np.log(np.maximum(right, LEAST)).mean())


def at_coverage(found: Predictions) -> list[Covered]:
    """What abstaining brings: accuracy on the most certain texts."""
    confidence = found.probabilities.max(axis=1)
    order = np.argsort(-confidence, kind="stable")
    right = (found.chosen == found.truth)[order]
    covered = []
    for share in COVERAGES:
        count = max(1, round(share * len(order)))
        covered.append(Covered(share, float(confidence[order[count - 1]]), float(right[:count].mean())))
    return covered


#: What is told with an interval, and compared in pairs.
FIGURES: dict[str, Figure] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "ece": ece,
    "log_loss": log_loss,
}


def told(found: Predictions) -> dict[str, dict[str, float]]:
    draws = _draws(found)
    return {name: _between(figure(found), map(figure, draws)).rounded() for name, figure in FIGURES.items()}


def interval(found: Predictions, figure: Figure) -> Interval:
    return _between(figure(found), map(figure, _draws(found)))


def difference(first: Predictions, second: Predictions, figure: Figure) -> Interval:
    """``figure`` of ``second`` less that of ``first``, which label the same examples: drawn in pairs, so that
    what is hard for both does not blur what sets them apart."""
    if not np.array_equal(first.truth, second.truth):
        raise ValueError("only predictions of the same examples can be compared in pairs")
    pairs = zip(_draws(first), _draws(second), strict=True)
    return _between(figure(second) - figure(first), (figure(b) - figure(a) for a, b in pairs))


def _between(value: float, drawn: Iterable[float]) -> Interval:
    """``value``, and the middle ``LEVEL`` of what was drawn."""
    low, high = np.quantile(list(drawn), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _draws(found: Predictions) -> list[Predictions]:
    """The same draws for every set of predictions of one size."""
    random = np.random.default_rng(SEED)
    size = len(found.truth)
    draws = []
    for _ in range(DRAWS):
        index = random.integers(0, size, size)
        draws.append(Predictions(found.labels, found.truth[index], found.probabilities[index], 0.0, 0))
    return draws
