"""The error tree: codes, exit codes, and what a reader is told about them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from moodq_config import errors
from moodq_config.cli import root
from moodq_config.errors import NEVER_RETRIED, BadInput, ErrorCode, ItemFailed, MoodqError


def family(kind: type[MoodqError] = MoodqError) -> Iterator[type[MoodqError]]:
    yield kind
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from family(child)


KINDS = list(family())
#: A command ends with 3 for an item that was refused and for one that failed.
BOTH_OF_AN_ITEM = {BadInput, ItemFailed}


def test_every_code_is_written_once_and_spelled_like_its_name() -> None:
    members = ErrorCode.__members__
    assert len({code.value for code in members.values()}) == len(members)
    assert all(code.value == name.lower() for name, code in members.items())


def test_kinds_have_distinct_exit_codes_except_where_one_is_a_kind_of_the_other() -> None:
    for kind in KINDS:
        for other in KINDS:
            if kind.exit_code == other.exit_code and {kind, other} != BOTH_OF_AN_ITEM:
                assert issubclass(kind, other) or issubclass(other, kind), (kind, other)


def test_kinds_have_distinct_default_codes() -> None:
    assert len({kind.default_code for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_tree_in_the_docstring_names_every_kind(kind: type[MoodqError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_exit_code_is_documented_in_the_help(kind: type[MoodqError]) -> None:
    shown = " ".join((root.help or "").partition("Exit codes:")[2].split())
    described = {int(part.split()[0]) for part in shown.split(", ") if part[0].isdigit()}
    assert kind.exit_code in described
    assert {0, 130} <= described


def test_an_error_shows_its_code_and_message_and_keeps_the_cause_to_itself() -> None:
    error = BadInput("text is empty", code=ErrorCode.EMPTY_TEXT)
    error.__cause__ = RuntimeError("password=hush")
    assert str(error) == "empty_text: text is empty"
    assert error.message == "text is empty"


def test_what_the_sender_did_wrong_is_never_retried_and_what_broke_here_is() -> None:
    assert {ErrorCode.EMPTY_TEXT, ErrorCode.UNKNOWN_FUNCTION, ErrorCode.MAX_ATTEMPTS} <= NEVER_RETRIED
    assert not NEVER_RETRIED & {ErrorCode.ENGINE_FAILED, ErrorCode.REDIS_UNREACHABLE, ErrorCode.INTERNAL}
