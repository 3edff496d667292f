"""From the model's log-odds to probabilities that mean what they say: one temperature, one bias a label.

``moodq tune`` runs the model once over its texts; all else is arithmetic on the log-odds kept, done here.
Temperature and bias are a logistic regression of two or more classes with one slope for all (Platt 1999, Guo
et al. 2017), so the loss is convex and Newton's method finds its only minimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FOLDS = 5
SEED = 20_260_101
#: Pull towards temperature 1 and bias 0, in texts: what a few of them say of it is believed only in part.
RIDGE = 1.0
MAX_STEPS = 100
#: A gain of the loss, summed over all texts, below which Newton's method has arrived.
TOLERANCE = 1e-9
#: A model that knows nothing, or the contrary, would get a slope of 0 or less; a task file holds 0.01 to 100.
MIN_SLOPE, MAX_SLOPE = 0.01, 100.0
#: Log-probabilities below this are rounding.
LOWEST = -80.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """As in a task's prompt: ``bias`` is added to the log-odds, the sum divided by ``temperature``. The
    smallest bias is 0: only their differences count."""

    bias: tuple[float, ...]
    temperature: float

    def __call__(self, odds: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities, ``[texts, labels]``, of ``odds`` of the same shape."""
        return _softmax((odds + np.array(self.bias)) / self.temperature)

    @classmethod
    def none(cls, labels: int) -> Calibration:
        return cls((0.0,) * labels, 1.0)


def log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithms, the smallest of them bounded."""
    return np.log(np.maximum(probabilities, np.exp(LOWEST)))


def fit(odds: NDArray[np.float64], truth: NDArray[np.int64]) -> Calibration:
    """The calibration of least log loss on texts with these ``odds``, ``[texts, labels]``, and labels."""
    labels = odds.shape[1]
    best = np.array([1.0, *[0.0] * labels])  # slope, then intercepts
    loss = _loss(best, odds, truth)
    for _ in range(MAX_STEPS):
        gradient, curvature = _derivatives(best, odds, truth)
        step = np.linalg.solve(curvature, gradient)
        while (tried := _loss(best - step, odds, truth)) > loss and np.abs(step).max() > TOLERANCE:
            step /= 2
        gain = loss - tried
        if gain > 0:
            best, loss = best - step, tried
        if gain < TOLERANCE:
            break
    slope = float(np.clip(best[0], MIN_SLOPE, MAX_SLOPE))
    bias = (best[1:] - best[1:].min()) / slope
    return Calibration(tuple(round(float(one), 3) for one in bias), round(1 / slope, 3))


def cross_fitted(odds: NDArray[np.float64], truth: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probabilities of each text by a calibration fitted without it."""
    probabilities = np.zeros_like(odds)
    fold = folds(truth)
    for number in range(FOLDS):
        held = fold == number
        probabilities[held] = fit(odds[~held], truth[~held])(odds[held])
    return probabilities


def folds(truth: NDArray[np.int64]) -> NDArray[np.int64]:
    """A fold for each text, by chance but the same every time, each with its share of every label."""
    random = np.random.default_rng(SEED)
    fold = np.zeros(len(truth), dtype=np.int64)
    start = 0
    for label in np.unique(truth):
        places = random.permutation(np.flatnonzero(truth == label))
        fold[places] = (start + np.arange(len(places))) % FOLDS
        start += len(places)
    return fold


def _loss(values: NDArray[np.float64], odds: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Log loss summed over the texts, and the pull."""
    scores = values[0] * odds + values[1:]
    top = scores.max(axis=1)
    total = top + np.log(np.exp(scores - top[:, None]).sum(axis=1)) - scores[np.arange(len(truth)), truth]
    pull = (values[0] - 1) ** 2 + (values[1:] ** 2).sum()
    return float(total.sum() + RIDGE / 2 * pull)


def _derivatives(
    values: NDArray[np.float64], odds: NDArray[np.float64], truth: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gradient and Hessian of ``_loss``."""
    texts, labels = odds.shape
    probabilities = _softmax(values[0] * odds + values[1:])
    # What each value moves each label's score by: [texts, labels, 1 + labels].
    moved = np.concatenate(
        [odds[:, :, None], np.broadcast_to(np.eye(labels), (texts, labels, labels))], axis=2
    )
    missed = probabilities.copy()
    missed[np.arange(texts), truth] -= 1
    gradient = np.einsum("tl,tlv->v", missed, moved)
    mean = np.einsum("tl,tlv->tv", probabilities, moved)
    curvature = np.einsum("tl,tlv,tlw->vw", probabilities, moved, moved, optimize=True) - mean.T @ mean
    pull = values - np.array([1.0, *[0.0] * labels])
    return gradient + RIDGE * pull, curvature + RIDGE * np.eye(1 + labels)


def _softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    raised = np.exp(scores - scores.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = raised / raised.sum(axis=1, keepdims=True)
    return shares
