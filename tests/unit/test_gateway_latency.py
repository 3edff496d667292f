"""The live view's latency: quantiles of what the workers counted in the last minute."""

from __future__ import annotations

import pytest

from moodq_config.worker_info import Latencies, WorkerInfo
from moodq_producer.gateway.latency import LatencyNow, quantile

BOUNDS = (0.1, 0.2, 0.4)


def told(at: float, *counts: int, queue: str = "interactive") -> WorkerInfo:
    return WorkerInfo(at=at, started_at=0, latencies=Latencies(bounds=BOUNDS, queues={queue: counts}))


def test_a_quantile_lies_where_its_share_of_the_counted_ends() -> None:
    assert quantile(BOUNDS, (10, 0, 10, 0), 0.5) == pytest.approx(0.1)
    assert quantile(BOUNDS, (10, 0, 10, 0), 0.25) == pytest.approx(0.05)
    assert quantile(BOUNDS, (10, 0, 10, 0), 0.75) == pytest.approx(0.3)
    assert quantile(BOUNDS, (0, 0, 0, 5), 0.5) == pytest.approx(0.4)  # no more is known of it


def test_what_was_counted_before_the_first_reading_says_nothing() -> None:
    latency = LatencyNow()
    assert latency.now({"a": told(100, 0, 0, 0, 900)}) == {}
    shown = latency.now({"a": told(102, 10, 0, 0, 900)})["interactive"]
    assert (shown.p50, shown.p95) == pytest.approx((0.05, 0.095))


def test_all_living_workers_count_and_each_queue_by_itself() -> None:
    latency = LatencyNow()
    latency.now(
        {"a": told(100, 0, 0, 0, 0), "b": told(100, 0, 0, 0, 0), "c": told(100, 0, 0, 0, 0, queue="bulk")}
    )
    found = latency.now(
        {"a": told(102, 10, 0, 0, 0), "b": told(102, 0, 0, 10, 0), "c": told(102, 0, 4, 0, 0, queue="bulk")}
    )
    assert found["interactive"].p50 == pytest.approx(0.1)
    assert found["bulk"].p50 == pytest.approx(0.15)


def test_a_minute_later_the_old_texts_are_forgotten() -> None:
    latency = LatencyNow()
    for at in range(100, 240, 2):
        found = latency.now({"a": told(at, min(at - 100, 10), 0, 0, 0)})
    assert found == {}


def test_a_worker_that_starts_anew_under_its_name_begins_from_nothing() -> None:
    latency = LatencyNow()
    latency.now({"a": told(100, 50, 0, 0, 0)})
    assert latency.now({"a": told(102, 1, 0, 0, 0)}) == {}
    latency.now({"a": told(104, 1, 0, 0, 0)})
    assert latency.now({"a": told(106, 1, 2, 0, 0)})["interactive"].p50 == pytest.approx(0.15)
