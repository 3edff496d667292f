"""The soak in its short form: the same load, server and processes for less than a minute."""

from __future__ import annotations

import pytest

from soak.__main__ import Plan, soak
from soak.samples import slopes


@pytest.mark.timeout(240)
def test_under_mixed_load_nothing_grows_and_afterwards_only_registrations_are_left() -> None:
    document = soak(Plan(seconds=30, every_s=0.5, workers=2, engine="fake"))
    assert document["faults"] == []
    assert document["counts"]["bulk"] > 500
    assert all(document["counts"][way] > 20 for way in ("labels", "replies", "streams", "waits", "bad"))


def samples(per_sample: float) -> list[tuple[float, dict[str, float]]]:
    noise = (0.2, -0.1, -0.1, 0.0)
    return [
        (second, {"worker rss_mb": 50 + second * per_sample + noise[second % 4], "worker threads": 8.0})
        for second in range(60)
    ]


def test_a_leak_of_a_tenth_of_a_mib_a_second_is_seen_within_a_minute_and_noise_is_not() -> None:
    found = slopes(samples(0.15))
    assert not found["worker rss_mb"].flat
    assert found["worker rss_mb"].per_hour == pytest.approx(0.15 * 3600, rel=0.01)
    assert found["worker threads"].flat
    assert slopes(samples(0.0))["worker rss_mb"].flat


def test_a_thread_more_in_every_ten_samples_is_seen() -> None:
    grown = [(at, {**figures, "worker threads": 8.0 + at // 10}) for at, figures in samples(0.0)]
    assert not slopes(grown)["worker threads"].flat
