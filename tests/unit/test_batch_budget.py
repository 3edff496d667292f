"""The token budget of a label batch, from the times of batches tried."""

from __future__ import annotations

import pytest

pytest.importorskip("torch")

from moodq_worker.engine_hf.batch_budget import BATCH_TOKENS, LONGEST_S, smallest_worth_it


def test_the_smallest_batch_that_is_about_as_fast_as_the_fastest_wins() -> None:
    speeds = {128: 1_400.0, 256: 1_980.0, 512: 2_165.0, 1024: 2_141.0}
    assert smallest_worth_it(lambda tokens: tokens / speeds[tokens]) == 512


def test_a_machine_that_gains_nothing_from_larger_batches_takes_small_ones() -> None:
    assert smallest_worth_it(lambda tokens: tokens / 1_000.0) == BATCH_TOKENS[0]


def test_a_batch_that_would_take_too_long_is_not_tried() -> None:
    tried = []

    def seconds(tokens: int) -> float:
        tried.append(tokens)
        return tokens / 600.0 * (0.5 if tokens > 128 else 1.0)

    assert smallest_worth_it(seconds) == 256
    assert max(tried) / 1_200.0 <= LONGEST_S


def test_a_slow_machine_tries_the_smallest_batch_only() -> None:
    assert smallest_worth_it(lambda tokens: tokens / 20.0) == BATCH_TOKENS[0]


def test_a_fast_machine_goes_on_as_long_as_it_gains() -> None:
    assert smallest_worth_it(lambda tokens: 0.01 + tokens / 1e6) == BATCH_TOKENS[-1]
