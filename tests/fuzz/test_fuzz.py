"""The fuzzer's targets in their short form, without coverage. ``make fuzz`` is the long one."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fuzz.corpus import WORDS, seeds
from fuzz.targets import DONE, TARGETS

FOUND = Path(__file__).parent / "found"


@st.composite
def mutated(draw: st.DrawFn, target: str) -> bytes:
    """A seed with a few words, bytes or pieces of another put in, taken out, or put elsewhere."""
    known = list(seeds(target))
    data = draw(st.sampled_from(known))
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 20)))
        piece = draw(st.sampled_from(WORDS[target]) | st.binary(max_size=4) | st.just(data[start:end] * 2))
        data = data[:start] + piece + data[end:]
    return data


@pytest.mark.parametrize("target", TARGETS)
def test_every_seed_is_taken_or_refused_with_its_code(target: str) -> None:
    outcomes = [TARGETS[target](data) for data in seeds(target)]
    assert DONE in outcomes


@pytest.mark.parametrize("target", TARGETS)
def test_whatever_is_made_of_the_golden_files_is_taken_or_refused_with_its_code(target: str) -> None:
    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(data=mutated(target) | st.binary(max_size=60))
    def check(data: bytes) -> None:
        TARGETS[target](data)

    check()


@pytest.mark.parametrize("path", sorted(FOUND.glob("*/*")), ids=lambda path: path.name)
def test_what_the_fuzzer_once_found_stays_mended(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())
