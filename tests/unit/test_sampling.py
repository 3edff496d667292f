"""Draws of a task that samples, from logits whose odds are known."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from moodq_worker.engine_hf.sampling import Sampler

#: Probabilities 0.5, 0.3, 0.15, 0.05 of the tokens 2, 0, 3, 1; the last can never come.
LOGITS = torch.tensor([0.3, 0.05, 0.5, 0.15, 0.0]).log()
DRAWS = 2_000


def drawn(temperature: float, top_p: float) -> Counter[int]:
    sampler = Sampler(temperature, top_p, seed=7)
    return Counter(sampler.draw(LOGITS) for _ in range(DRAWS))


def test_tokens_come_as_often_as_their_odds_say() -> None:
    counts = drawn(1.0, 1.0)
    assert counts[2] / DRAWS == pytest.approx(0.5, abs=0.05)
    assert counts[0] / DRAWS == pytest.approx(0.3, abs=0.05)
    assert counts[1] > 0
    assert counts[4] == 0


def test_a_low_temperature_takes_the_likeliest_more_often() -> None:
    assert drawn(0.3, 1.0)[2] > drawn(1.0, 1.0)[2] > drawn(2.0, 1.0)[2]


@pytest.mark.parametrize(("top_p", "kept"), [(0.01, {2}), (0.5, {2}), (0.51, {2, 0}), (0.9, {2, 0, 3})])
def test_only_the_likeliest_that_make_up_top_p_are_drawn(top_p: float, kept: set[int]) -> None:
    assert set(drawn(1.0, top_p)) == kept


def test_the_same_seed_draws_the_same_and_another_does_not() -> None:
    first, again, other = (Sampler(1.0, 1.0, seed) for seed in (1, 1, 2))
    draws = [[one.draw(LOGITS) for _ in range(50)] for one in (first, again, other)]
    assert draws[0] == draws[1] != draws[2]
