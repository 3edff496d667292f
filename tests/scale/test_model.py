"""The simulation of a cluster: near what ``make scale`` measured, and right where the answer is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moodq_worker.capacity.simulate import JOB_S
from scale.model import Setting, run
from scale.page import TOLERANCE, compare, server_of

MEASURED = Path(__file__).resolve().parents[2] / "docs" / "scale" / "measured.json"


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(MEASURED.read_text("utf-8"))
    return found


def test_every_measured_point_is_simulated_within_its_tolerance(document: dict[str, Any]) -> None:
    compared = compare(document)
    assert len(compared) >= 9
    for point, found in compared:
        assert found == pytest.approx(point["items_per_s"], rel=TOLERANCE), point


def setting(document: dict[str, Any], workers: int, servers: int) -> Setting:
    return Setting(workers, servers, 0.0005, 1, 7, lambda texts: 0.028, server_of(document, 1))


def test_a_full_server_carries_what_its_scripts_cost_and_two_carry_twice_that(
    document: dict[str, Any],
) -> None:
    one, two = run(setting(document, 60, 1)), run(setting(document, 120, 2))
    cost = server_of(document, 1)
    claimed, ended = cost["claim"]["job_s"], cost["finish"]["job_s"]
    assert one.busy == pytest.approx(1.0, abs=0.02)
    # Scripts and renewals take some of it too; more jobs to a script take less.
    assert 0.6 / (claimed + ended) < one.items_per_s < 1.02 / (claimed + ended)
    assert two.items_per_s == pytest.approx(2 * one.items_per_s, rel=0.05)


def test_workers_far_below_the_servers_limit_do_not_notice_one_another(document: dict[str, Any]) -> None:
    alone, ten = run(setting(document, 1, 1)), run(setting(document, 10, 1))
    assert ten.items_per_s == pytest.approx(10 * alone.items_per_s, rel=0.02)
    assert alone.items_per_s == pytest.approx(7 / (0.028 + 7 * JOB_S), rel=0.02)
