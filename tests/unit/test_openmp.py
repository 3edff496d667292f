"""How long the engine's threads spin is ours to set unless an operator has."""

from __future__ import annotations

import pytest

from moodq_worker.openmp import SPIN_COUNT, wait_briefly


def test_threads_spin_briefly_by_default() -> None:
    environment: dict[str, str] = {}
    wait_briefly(environment)
    assert environment == {"GOMP_SPINCOUNT": str(SPIN_COUNT)}


@pytest.mark.parametrize("decided", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_what_an_operator_decided_stays(decided: dict[str, str]) -> None:
    environment = dict(decided)
    wait_briefly(environment)
    assert environment == decided
