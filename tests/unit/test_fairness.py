from collections import Counter
from itertools import pairwise

import pytest

from moodq_worker.fairness import FairShare

QUEUES = ("interactive", "bulk", "logs", "archive")


def turns(busy: tuple[str, ...], count: int, share: float, **weights: float) -> Counter[str]:
    fair = FairShare(QUEUES, share=share, weights=weights)
    return Counter(fair.choose(busy) for _ in range(count))


def test_later_queues_divide_their_share_by_weight_while_the_first_is_busy() -> None:
    assert turns(QUEUES, 400, 0.25, bulk=2.0) == {"interactive": 300, "bulk": 50, "logs": 25, "archive": 25}


def test_a_queue_that_has_nothing_leaves_its_part_to_the_other_later_ones() -> None:
    assert turns(("interactive", "logs"), 400, 0.25, bulk=2.0) == {"interactive": 300, "logs": 100}


def test_later_queues_have_every_turn_when_the_first_is_idle() -> None:
    assert turns(("bulk", "logs"), 400, 0.0, bulk=3.0) == {"bulk": 300, "logs": 100}


def test_with_no_share_later_queues_wait_for_the_first() -> None:
    assert turns(QUEUES, 100, 0.0) == {"interactive": 100}


def test_turns_are_spread_evenly() -> None:
    fair = FairShare(QUEUES, share=0.5, weights={})
    chosen = [fair.choose(("interactive", "bulk")) for _ in range(20)]
    assert set(pairwise(chosen)) == {("interactive", "bulk"), ("bulk", "interactive")}


@pytest.mark.parametrize("idle_turns", [1, 50])
def test_a_queue_that_was_idle_has_saved_nothing_up(idle_turns: int) -> None:
    fair = FairShare(QUEUES, share=0.25, weights={})
    for _ in range(idle_turns):
        fair.choose(("bulk", "logs"))
    assert Counter(fair.choose(("interactive", "bulk")) for _ in range(100))["interactive"] >= 74
