"""Figures of predictions, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from moodq_worker.quality.measures import (
    LEAST,
    accuracy,
    at_coverage,
    balanced_accuracy,
    confusion,
    difference,
    ece,
    f1_by_label,
    interval,
    log_loss,
    reliability,
)
from moodq_worker.quality.predict import Predictions


def predictions(truth: list[int], first: list[float]) -> Predictions:
    """Two labels; ``first`` is the probability of label 0."""
    probabilities = np.array([[one, 1 - one] for one in first])
    return Predictions(("a", "b"), np.array(truth), probabilities, 1.0, 10)


# given: a a b a; three of a, one of b
FOUND = predictions([0, 0, 0, 1], [0.9, 0.8, 0.3, 0.6])


def test_what_is_right_is_counted() -> None:
    assert accuracy(FOUND) == 0.5
    assert confusion(FOUND).tolist() == [[2, 1], [1, 0]]
    assert balanced_accuracy(FOUND) == pytest.approx((2 / 3 + 0) / 2)
    # a: precision 2/3, recall 2/3; b: never right
    assert f1_by_label(FOUND) == {"a": pytest.approx(2 / 3), "b": 0.0}


def test_a_label_that_does_not_occur_has_no_part_in_balanced_accuracy() -> None:
    found = Predictions(("a", "b", "c"), np.array([0, 1]), np.eye(3)[:2], 1.0, 2)
    assert balanced_accuracy(found) == 1.0
    assert f1_by_label(found)["c"] == 0.0


def test_the_calibration_error_weighs_each_bin_by_its_texts() -> None:
    # bins: 0.9 right; 0.8 right; 0.7 (b, wrong); 0.6 (a, wrong)
    assert [one.count for one in reliability(FOUND)] == [1, 1, 1, 1]
    assert ece(FOUND) == pytest.approx((0.1 + 0.2 + 0.7 + 0.6) / 4)
    sure = predictions([0, 0], [1.0, 1.0])
    assert ece(sure) == 0.0


def test_the_log_loss_is_what_the_right_labels_lack_and_has_an_end() -> None:
    assert log_loss(FOUND) == pytest.approx(-np.log([0.9, 0.8, 0.3, 0.4]).mean())
    assert log_loss(predictions([1], [1.0])) == pytest.approx(-np.log(LEAST))


def test_half_of_the_texts_said_with_half_certainty_is_no_error() -> None:
    assert ece(predictions([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5])) == pytest.approx(0.0)


def test_the_most_certain_texts_are_the_last_to_be_left_out() -> None:
    half = at_coverage(FOUND)[-1]
    assert half.threshold == pytest.approx(0.8)
    assert (half.coverage, half.accuracy) == (0.5, 1.0)
    assert at_coverage(FOUND)[0].accuracy == 0.5


def test_an_interval_holds_its_figure_is_the_same_every_time_and_shrinks_with_more_texts() -> None:
    random = np.random.default_rng(1)

    def some(count: int) -> Predictions:
        return predictions(random.integers(0, 2, count).tolist(), random.random(count).tolist())

    few, many = some(40), some(4_000)
    one = interval(few, accuracy)
    assert one.low <= one.value <= one.high
    assert one == interval(few, accuracy)
    other = interval(many, accuracy)
    assert other.high - other.low < (one.high - one.low) / 5
    # The normal approximation: 1.96 standard errors to each side.
    assert other.high - other.low == pytest.approx(2 * 1.96 * (0.25 / 4_000) ** 0.5, rel=0.15)


def test_ways_that_agree_on_all_but_some_texts_differ_with_a_narrower_interval_than_each_has() -> None:
    random = np.random.default_rng(2)
    truth = random.integers(0, 2, 500).tolist()
    right = random.random(500) < 0.8
    chance = [
        (0.9 if t == 0 else 0.1) if ok else (0.1 if t == 0 else 0.9)
        for t, ok in zip(truth, right, strict=True)
    ]
    better = list(chance)
    for index in np.flatnonzero(~right)[:25]:
        better[index] = 1 - better[index]
    gain = difference(predictions(truth, chance), predictions(truth, better), accuracy)
    assert gain.value == pytest.approx(25 / 500)
    assert gain.low > 0
    alone = interval(predictions(truth, chance), accuracy)
    assert gain.high - gain.low < alone.high - alone.low


def test_predictions_of_other_texts_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same examples"):
        difference(FOUND, predictions([1, 1, 1, 1], [0.5] * 4), accuracy)
