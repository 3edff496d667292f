"""What a job costs, by a clock that the test moves."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry, Counter

from moodq_worker.cost import HALF_LIFE_S, CostMeter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def engine_seconds() -> Counter:
    return Counter("engine_seconds", "-", ("stage",), registry=CollectorRegistry())


@pytest.fixture
def meter(clock: Clock, engine_seconds: Counter) -> CostMeter:
    return CostMeter(engine_seconds, clock)


def work(meter: CostMeter, clock: Clock, queue: str, *, jobs: int, seconds: float) -> None:
    """So many jobs come together, and all of them are done after so long."""
    for _ in range(jobs):
        meter.took()
    with meter.engine("prefill", {queue: jobs}):
        clock.now += seconds
    for _ in range(jobs):
        meter.ended(queue)


def test_nothing_is_said_before_a_job_was_done(meter: CostMeter, clock: Clock) -> None:
    meter.took()
    clock.now += 5
    assert meter.seconds_per_job() == {}


def test_jobs_that_share_a_pass_share_its_cost(meter: CostMeter, clock: Clock) -> None:
    work(meter, clock, "bulk", jobs=4, seconds=2.0)
    assert meter.seconds_per_job() == {"bulk": pytest.approx(0.5)}


def test_idle_time_is_nobody_s_cost_and_is_not_forgotten_by(meter: CostMeter, clock: Clock) -> None:
    work(meter, clock, "bulk", jobs=4, seconds=2.0)
    clock.now += 3600
    assert meter.seconds_per_job() == {"bulk": pytest.approx(0.5)}


def test_each_queue_pays_for_its_part_of_the_engine_s_time(meter: CostMeter, clock: Clock) -> None:
    for _ in range(2):
        meter.took()
    with meter.engine("prefill", {"interactive": 1, "bulk": 3}):
        clock.now += 4.0
    meter.ended("interactive")
    meter.ended("bulk")
    assert meter.seconds_per_job() == {"interactive": pytest.approx(1.0), "bulk": pytest.approx(3.0)}


def test_what_runs_between_the_layers_of_a_pass_is_not_counted_twice(
    meter: CostMeter, clock: Clock, engine_seconds: Counter
) -> None:
    meter.took()
    meter.took()
    with meter.engine("prefill", {"bulk": 1}):
        clock.now += 3.0
        with meter.engine("prefill", {"interactive": 1}):
            clock.now += 1.0
    meter.ended("interactive")
    meter.ended("bulk")
    assert meter.seconds_per_job() == {"interactive": pytest.approx(1.0), "bulk": pytest.approx(3.0)}
    assert engine_seconds.labels("prefill")._value.get() == pytest.approx(4.0)


def test_a_pass_that_raises_has_cost_its_time(
    meter: CostMeter, clock: Clock, engine_seconds: Counter
) -> None:
    def run() -> None:
        with meter.engine("decode", {"bulk": 1}):
            clock.now += 2.0
            raise MemoryError

    with pytest.raises(MemoryError):
        run()
    assert engine_seconds.labels("decode")._value.get() == pytest.approx(2.0)


def test_what_was_half_a_life_ago_counts_half(meter: CostMeter, clock: Clock) -> None:
    work(meter, clock, "bulk", jobs=int(HALF_LIFE_S), seconds=HALF_LIFE_S)
    meter.seconds_per_job()
    work(meter, clock, "bulk", jobs=10, seconds=HALF_LIFE_S)
    # Half of 30 s and of 30 jobs, and all of the last 30 s and 10 jobs.
    assert meter.seconds_per_job() == {"bulk": pytest.approx((15 + 30) / (15 + 10))}


def test_a_job_that_takes_long_makes_the_queue_dearer_before_it_ends(meter: CostMeter, clock: Clock) -> None:
    work(meter, clock, "bulk", jobs=10, seconds=1.0)
    before = meter.seconds_per_job()["bulk"]
    meter.took()
    clock.now += 20.0
    assert meter.seconds_per_job()["bulk"] > 10 * before


def test_answers_that_need_no_engine_cost_what_they_took(meter: CostMeter, clock: Clock) -> None:
    for _ in range(10):
        meter.took()
    clock.now += 0.1
    for _ in range(10):
        meter.ended("bulk")
    assert meter.seconds_per_job() == {"bulk": pytest.approx(0.01)}
