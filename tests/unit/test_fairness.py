from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(
    share=st.floats(0.05, 1.0),
    weights=st.fixed_dictionaries({name: st.floats(0.1, 10.0) for name in QUEUES[1:]}),
    count=st.integers(1, 300),
)
def test_over_any_stretch_every_queue_has_its_part_to_within_a_few_turns(
    share: float, weights: dict[str, float], count: int
) -> None:
    parts = {"interactive": 1 - share} | {
        name: share * weight / sum(weights.values()) for name, weight in weights.items()
    }
    had = turns(QUEUES, count, share, **weights)
    for name, part in parts.items():
        assert abs(had[name] - part * count) <= len(QUEUES) - 1


@given(
    share=st.floats(0.1, 0.9),
    others=st.lists(st.sets(st.sampled_from(["interactive", "logs", "archive"])), min_size=60, max_size=200),
)
def test_a_queue_that_has_work_never_waits_long_whatever_the_others_do(
    share: float, others: list[set[str]]
) -> None:
    fair = FairShare(QUEUES, share=share, weights={})
    since = 0
    for others_busy in others:
        since = 0 if fair.choose({"bulk", *others_busy}) == "bulk" else since + 1
        assert since <= 3 / share + len(QUEUES)
