"""How long a pass may take, and that a pass within it has its own time."""

from __future__ import annotations

import pytest

from moodq_worker.time_limit import Abandoned, PassTimeout, PassTimer


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_pass_is_left_once_its_time_is_over_and_the_next_one_has_its_own() -> None:
    clock = Clock()
    timer = PassTimer(2.0, clock=clock)
    with timer.one_pass():
        clock.now = 2.0
        timer.check()
        clock.now = 2.1
        with pytest.raises(PassTimeout, match="MOODQ_PASS_TIMEOUT_S"):
            timer.check()
    timer.check()
    with timer.one_pass():
        clock.now = 4.0
        timer.check()


def test_a_pass_in_the_middle_of_another_has_its_own_time_and_takes_none_of_the_others() -> None:
    clock = Clock()
    started: list[float] = []
    timer = PassTimer(2.0, started=lambda: started.append(clock.now), clock=clock)
    with timer.one_pass():
        clock.now = 1.5
        with timer.one_pass():
            clock.now = 3.4
            timer.check()
            clock.now = 3.6
            with pytest.raises(PassTimeout):
                timer.check()
        timer.check()
        clock.now = 4.0
        timer.check()
        clock.now = 4.2
        with pytest.raises(PassTimeout):
            timer.check()
    assert started == [0.0, 1.5]


def test_an_abandoned_pass_is_left_as_no_failure_of_a_text() -> None:
    timer = PassTimer(2.0)
    timer.abandon()
    with timer.one_pass(), pytest.raises(Abandoned):
        timer.check()
    assert not issubclass(Abandoned, Exception)
