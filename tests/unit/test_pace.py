"""A worker holds about what it can do in a short while, never nothing and never everything."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moodq_worker.pace import LEAST_IN_HAND, MOST_IN_HAND, MOST_JOBS, SECONDS_IN_HAND, WINDOW_S, Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_slow_worker_holds_the_least_and_a_fast_one_its_own_speed() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.in_hand == LEAST_IN_HAND
    clock.now += WINDOW_S
    pace.finished(20)
    assert pace.in_hand == LEAST_IN_HAND
    clock.now += WINDOW_S
    pace.finished(int(2_000 * WINDOW_S))
    assert pace.in_hand == int(2_000 * SECONDS_IN_HAND)


def test_long_jobs_are_claimed_a_few_at_a_time() -> None:
    pace = Pace(Clock())
    for _ in range(20):
        pace.claimed(4, 4 * 100)
    assert pace.jobs(0) == LEAST_IN_HAND // 100
    for _ in range(100):
        pace.claimed(10, 10)
    assert pace.jobs(0) == min(MOST_JOBS, LEAST_IN_HAND)
    assert pace.jobs(LEAST_IN_HAND - 3) == 3


@given(
    finished=st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 10))),
    claimed=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 10**5))),
    in_hand=st.integers(0, 10**5),
)
def test_it_always_asks_for_something_within_its_bounds(
    finished: list[tuple[int, float]], claimed: list[tuple[int, int]], in_hand: int
) -> None:
    clock = Clock()
    pace = Pace(clock)
    for items, seconds in finished:
        clock.now += seconds
        pace.finished(items)
    for jobs, items in claimed:
        pace.claimed(jobs, items)
    assert LEAST_IN_HAND <= pace.in_hand <= MOST_IN_HAND
    assert 1 <= pace.jobs(in_hand) <= MOST_JOBS
