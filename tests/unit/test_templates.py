"""What counts as the same text, and who computes it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moodq_config.templates import MAX_PINNED_CHARS, pin_field, read_pins, template
from moodq_worker.result_cache import SingleFlight


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            "[Sun Dec 04 04:51:08 2005] [notice] jk2_init() Found child 6725 in scoreboard slot 10",
            "[Mon Jan 05 17:01:47 2006] [notice] jk2_init() Found child 21 in scoreboard slot 8",
        ),
        ("client 10.0.0.7:8080 timed out after 1.5 s", "client 192.168.1.20:443 timed out after 30 s"),
        (
            "request 9b2d41fe-0a67-4c11-9c53-2f6a1d3c7e10 failed at 0x7ffe",
            "request 00000000-0a67-4c11-9c53-2f6a1d3c7e1f failed at 0x1",
        ),
        ("block blk_-1608999687919862906 lost", "block blk_7503483334202473044 lost"),
        ("订单 1023 在 2024-05-01 退款", "订单 7 在 2023-11-12 退款"),
    ],
)
def test_lines_of_one_template_are_one(one: str, other: str) -> None:
    assert template(one) == template(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("workerEnv in error state 6", "workerEnv in good state 6"),
        ("the defaced facade", "the facade"),
        ("服务很好", "服务很差"),
        ("Mayor may come on Monday", "Mayor will come on Monday"),
    ],
)
def test_other_words_are_another_template(one: str, other: str) -> None:
    assert template(one) != template(other)


def test_words_are_left_alone() -> None:
    for text in ("the defaced facade was added in Mayfair", "这家店的服务非常好"):
        assert template(text) == text


@given(st.lists(st.sampled_from([*"-+.:/ 07axf", "Mon", "Dec", "0x", "<*>", "deadbeef", "差"])).map("".join))
def test_the_template_of_a_template_is_itself(text: str) -> None:
    assert template(template(text)) == template(text)


def test_pins_are_read_by_task_and_template_and_what_is_none_is_left_out() -> None:
    field = pin_field("sentiment", template("disk 7 is full"))
    stored = {
        field.encode(): b"negative",
        b"no-template": b"negative",
        b"sentiment \xff": b"negative",
        f"sentiment {'x' * (MAX_PINNED_CHARS + 1)}".encode(): b"negative",
    }
    assert read_pins(stored) == {("sentiment", "disk <*> is full"): "negative"}


def test_one_of_the_same_flies_and_the_others_land_with_it() -> None:
    flights: SingleFlight[str] = SingleFlight()
    assert [flights.join("a", name) for name in ("first", "second", "third")] == [False, True, True]
    assert flights.join("b", "alone") is False
    assert flights.land("a") == ["second", "third"]
    assert flights.land("a") == []
    assert flights.land("b") == []
    assert flights.join("a", "later") is False
