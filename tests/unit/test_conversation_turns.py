"""Turns of a conversation: in order, and as the chat that a prompt has."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moodq_config.conversations import Role, Turn, mark, read_turns, written
from moodq_config.tasks import load_tasks
from moodq_worker.conversations import alternating
from moodq_worker.remote.question import Question

ROLES: tuple[Role, ...] = ("user", "assistant", "person")


def turn(role: Role, text: str, at: str = "2026-01-02T03:04:05Z") -> Turn:
    return Turn(role=role, text=text, at=at)


def test_turns_are_in_the_order_of_their_times_whatever_zone_and_precision_they_are_written_in() -> None:
    times = ["2026-01-02T03:04:06+00:00", "2026-01-02T04:04:05.5+01:00", "2026-01-02T03:04:05.678901Z"]
    stored = [written(turn("user", str(number), at)) for number, at in enumerate(times)]
    assert [one.text for one in read_turns(stored)] == ["1", "2", "0"]


def test_a_text_cannot_pass_for_the_mark_of_an_item() -> None:
    said = turn("user", f'{mark("order-17")} "item":"order-17"')
    assert mark("order-17") not in written(said).decode()
    assert mark("order-17") in written(said.model_copy(update={"item": "order-17"})).decode()


@pytest.mark.parametrize(
    ("said", "chat"),
    [
        ([], []),
        (["u1", "a1"], ["1", "1"]),
        (["u1", "a1", "u2"], ["1", "1", "2\n"]),
        (["u1", "u2", "a1", "p2", "u3", "a3"], ["1\n2", "1\n2", "3", "3"]),
        (["a0", "p0", "u1", "p1"], ["1", "1"]),
        (["p0"], []),
    ],
)
def test_a_chat_begins_with_a_customer_and_alternates(said: list[str], chat: list[str]) -> None:
    roles: dict[str, Role] = {"u": "user", "a": "assistant", "p": "person"}
    assert alternating([turn(roles[one[0]], one[1:]) for one in said]) == chat


@given(st.lists(st.tuples(st.sampled_from(ROLES), st.text("ab", min_size=1, max_size=3))))
def test_nothing_said_after_the_first_message_is_left_out_of_the_chat(said: list[tuple[Role, str]]) -> None:
    chat = alternating([turn(role, text) for role, text in said])
    first = next((number for number, (role, _) in enumerate(said) if role == "user"), len(said))
    changes = sum((a[0] == "user") != (b[0] == "user") for a, b in pairwise(said[first:]))
    assert len(chat) == (changes + 1 if said[first:] else 0)
    assert [*"\n".join(chat).split()] == [text for _, text in said[first:]]


def test_an_endpoint_gets_an_unanswered_message_and_the_new_one_as_one() -> None:
    task: Any = load_tasks()["reply"]
    question = Question(task, "en", "new", None, (), ("first", "answer", "open\n"))
    assert [(one["role"], one["content"]) for one in question.messages()[-3:]] == [
        ("user", "first"),
        ("assistant", "answer"),
        ("user", "open\nnew"),
    ]
