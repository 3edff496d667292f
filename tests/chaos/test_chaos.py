"""Every scenario of ``make chaos`` in its short form: real servers, real workers, real kills, in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from chaos.scenarios import SCENARIOS, Run, Scenario, name_of

ITEMS = 40
HARM_S = 2.0


@pytest.mark.parametrize("scenario", SCENARIOS, ids=name_of)
def test_every_accepted_text_has_one_right_result_whatever_happens(
    scenario: Scenario, tmp_path: Path
) -> None:
    tally = scenario(Run(tmp_path, ITEMS, HARM_S))
    assert (tally.lost, tally.wrong) == (0, 0), tally
    assert tally.items == tally.done + tally.failed > 0, tally
    assert not tally.harm.startswith("0 "), "no harm was done"
