"""Temperature and bias fitted to log-odds: they find what the log-odds were spoilt by, and are judged on
texts that they have not seen."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from moodq_worker.quality.calibration import (
    FOLDS,
    Calibration,
    cross_fitted,
    fit,
    folds,
    log_odds,
)
from moodq_worker.quality.measures import ece, log_loss
from moodq_worker.quality.predict import Predictions

Drawn = tuple[NDArray[np.float64], NDArray[np.int64]]


def drawn(texts: int, labels: int, spread: float = 1.5) -> Drawn:
    """True log-odds, and labels drawn by the probabilities they stand for: perfectly calibrated."""
    random = np.random.default_rng(3)
    scores = random.normal(0, spread, (texts, labels))
    raised = np.exp(scores)
    shares = raised / raised.sum(axis=1, keepdims=True)
    truth = np.array([random.choice(labels, p=row) for row in shares])
    return np.log(shares), truth


def predictions(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> Predictions:
    labels = tuple(f"label{number}" for number in range(probabilities.shape[1]))
    return Predictions(labels, truth, probabilities, 0.0, 0)


@pytest.mark.parametrize("labels", [2, 4])
def test_the_temperature_and_bias_that_the_odds_were_spoilt_by_are_found(labels: int) -> None:
    odds, truth = drawn(8_000, labels)
    lean = np.array([1.2, 0.0, 0.7, 0.4][:labels])
    # A model 2.5 times too sure that leans: what is fitted must undo both.
    found = fit(2.5 * odds - lean, truth)
    assert found.temperature == pytest.approx(2.5, rel=0.05)
    assert np.array(found.bias) == pytest.approx(lean, abs=0.15)
    assert min(found.bias) == 0.0
    assert found == fit(2.5 * odds - lean, truth)


def test_the_loss_is_least_where_the_fit_says() -> None:
    odds, truth = drawn(2_000, 3)
    found = fit(1.7 * odds + np.array([0.5, 0.0, -0.5]), truth)
    spoilt = 1.7 * odds + np.array([0.5, 0.0, -0.5])
    least = log_loss(predictions(found(spoilt), truth))
    for factor in (0.95, 1.05):
        other = Calibration(found.bias, found.temperature * factor)
        assert log_loss(predictions(other(spoilt), truth)) > least
    for place in range(3):
        bias = list(found.bias)
        bias[place] += 0.1
        assert log_loss(predictions(Calibration(tuple(bias), found.temperature)(spoilt), truth)) > least


def test_cross_validation_mends_what_is_spoilt_and_leaves_what_is_well() -> None:
    odds, truth = drawn(2_000, 2)
    spoilt = log_odds(Calibration((1.5, 0.0), 0.4)(odds))
    before, after = (
        predictions(Calibration.none(2)(spoilt), truth),
        predictions(cross_fitted(spoilt, truth), truth),
    )
    assert ece(before) > 0.1
    assert ece(after) < 0.03
    assert log_loss(predictions(cross_fitted(odds, truth), truth)) == pytest.approx(
        log_loss(predictions(Calibration.none(2)(odds), truth)), abs=0.005
    )


def test_no_text_has_a_part_in_the_fit_that_judges_it() -> None:
    odds, truth = drawn(100, 2)
    fold = folds(truth)
    held = fold == 0
    spoilt = odds.copy()
    spoilt[held] = -spoilt[held]
    before, after = cross_fitted(odds, truth), cross_fitted(spoilt, truth)
    # Odds of a held text the other way round turn its answer about the same fit, and no more.
    fitted = fit(odds[~held], truth[~held])
    assert before[held] == pytest.approx(fitted(odds[held]))
    assert after[held] == pytest.approx(fitted(-odds[held]))


def test_every_fold_has_its_share_of_every_label() -> None:
    truth = np.array([0] * 52 + [1] * 13)
    fold = folds(truth)
    assert np.bincount(fold).tolist() == [13] * FOLDS
    for number in range(FOLDS):
        assert np.bincount(truth[fold == number])[0] in (10, 11)
    assert np.array_equal(fold, folds(truth))


def test_a_model_that_is_never_wrong_or_knows_nothing_still_gets_figures_that_a_task_file_takes() -> None:
    truth = np.array([0, 1] * 10)
    sure = log_odds(np.eye(2)[truth])
    nothing = np.zeros((20, 2))
    contrary = log_odds(np.eye(2)[1 - truth])
    for odds in (sure, nothing, contrary):
        found = fit(odds, truth)
        assert 0.01 <= found.temperature <= 100.0
        assert np.isfinite(found(odds)).all()
        assert np.isfinite(found.bias).all()
    assert fit(nothing, truth) == Calibration((0.0, 0.0), 1.0)


def test_few_texts_are_believed_in_part_only() -> None:
    odds, _ = drawn(6, 2)
    all_right = odds.argmax(axis=1)
    # Without the pull the temperature would go to 0: nothing contradicts it.
    assert 0.2 < fit(odds, all_right).temperature < 1.0
