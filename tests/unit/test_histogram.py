"""Our histogram says what ``prometheus_client``'s says, for one observation and for many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, disable_created_metrics, generate_latest
from prometheus_client import Histogram as Theirs
from prometheus_client.openmetrics.exposition import generate_latest as openmetrics

from moodq_worker.histogram import Histogram

BOUNDS = (0.005, 0.1, 1.0, 60.0)
disable_created_metrics()  # ours has no such series


@given(st.lists(st.floats(0, 100) | st.sampled_from(BOUNDS), max_size=30))
def test_many_at_once_are_exposed_as_one_by_one_by_the_library(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    many = Histogram("wait_seconds", "Waiting", ("task",), buckets=BOUNDS, registry=ours).labels("a")
    single = Theirs("wait_seconds", "Waiting", ("task",), buckets=BOUNDS, registry=theirs).labels("a")
    many.observe_many(values)
    for value in values:
        single.observe(value)
    ours_text, theirs_text = generate_latest(ours).decode(), generate_latest(theirs).decode()
    assert [line for line in ours_text.splitlines() if "_sum" not in line] == [
        line for line in theirs_text.splitlines() if "_sum" not in line
    ]
    assert _value(ours_text, "_sum") == pytest.approx(_value(theirs_text, "_sum"))


def test_the_same_value_several_times_counts_so_often() -> None:
    histogram = Histogram("a_seconds", "A", buckets=BOUNDS, registry=CollectorRegistry())
    histogram._series[()].observe(0.5, times=3)
    histogram.observe(2.0)
    assert histogram.read() == {(): [0, 0, 3, 1, 0]}


def test_the_trace_of_a_value_is_the_exemplar_of_its_bucket() -> None:
    registry = CollectorRegistry()
    histogram = Histogram("wait_seconds", "Waiting", ("task",), buckets=BOUNDS, registry=registry)
    histogram.labels("a").observe_many([0.01, 0.7], (0.7, "4bf92f3577b34da6"))
    histogram.labels("a").observe(2.0, trace_id="a3ce929d0e0e4736")
    lines = openmetrics(registry).decode().splitlines()
    [shown, slower] = [line for line in lines if "trace_id" in line]
    assert slower.startswith(
        'wait_seconds_bucket{le="60.0",task="a"} 3.0 # {trace_id="a3ce929d0e0e4736"} 2.0'
    )
    assert shown.startswith('wait_seconds_bucket{le="1.0",task="a"} 2.0 # {trace_id="4bf92f3577b34da6"} 0.7')


def test_label_values_must_be_as_many_as_the_labels() -> None:
    histogram = Histogram("wait_seconds", "Waiting", ("task",), buckets=BOUNDS, registry=CollectorRegistry())
    with pytest.raises(ValueError, match="labels"):
        histogram.labels("a", "b")


def _value(text: str, suffix: str) -> float:
    return float(next(line for line in text.splitlines() if suffix in line).split()[-1])
