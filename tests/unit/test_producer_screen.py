"""What reaches a terminal: no control character of a text does."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from moodq_config.contracts import GeneratedText, LabelScores, Result, ResultStatus
from moodq_config.printable import printable
from moodq_producer.screen import (
    bad_input_result,
    json_line,
    results_table,
    stats_table,
    workers_line,
)

HOSTILE = "a\x1b[31mb\x07c\x9bd\u202ee\u2028f"


def result(text: str) -> Result:
    scores = LabelScores(label="positive", probability=0.9, scores={"positive": 0.9, "negative": 0.1})
    reply = GeneratedText(text=text, finish_reason="length", tokens=3)
    return Result(
        id="a",
        status=ResultStatus.DONE,
        results={"sentiment": scores, "reply": reply},
        worker="w",
        attempt=1,
        finished_at="now",
    )


def shown(name: str, outcome: Result | None) -> str:
    output = io.StringIO()
    table = results_table([(name, outcome)], ["sentiment", "reply"], "text")
    Console(file=output, width=200, force_terminal=False).print(table)
    return output.getvalue()


@pytest.mark.parametrize("plain", ["太棒了！", "naïve café", "👩‍👩‍👧 ok", "a [bold]b[/bold]"])
def test_ordinary_text_is_shown_as_it_is(plain: str) -> None:
    assert printable(plain) == plain


def test_control_and_direction_characters_are_shown_as_escapes() -> None:
    assert printable("a\x1b[31mb\x07c\x9bd\u202ee") == "a\\x1b[31mb\\x07c\\x9bd\\u202ee"


def test_line_breaks_become_spaces() -> None:
    assert printable("one\r\ntwo\tthree") == "one two three"


def test_a_table_holds_no_control_character_and_no_markup_of_a_text() -> None:
    output = shown(HOSTILE + "[red]", result(HOSTILE + "[red]"))
    assert all(char == "\n" or char.isprintable() for char in output)
    assert "[red]" in output
    assert "positive 0.900" in output


def test_a_long_text_is_shortened_and_a_missing_result_is_said() -> None:
    output = shown("x" * 500, None)
    assert "x" * 60 not in output
    assert "no result yet" in output


def test_a_json_line_is_safe_to_print_and_means_the_same() -> None:
    line = json_line(result(HOSTILE))
    assert all(char.isprintable() for char in line)
    assert json.loads(line)["results"]["reply"]["text"] == HOSTILE


def test_a_refused_line_has_the_form_of_a_result() -> None:
    refused = bad_input_result("line-3", "invalid_utf8", "line 3 is not valid UTF-8")
    assert json.loads(json_line(refused))["error"]["code"] == "invalid_utf8"
    assert "invalid_utf8" in shown("?", refused)


def test_stats_show_each_queue_and_what_to_do_without_a_worker() -> None:
    row: dict[str, float | int | None] = {
        "length": 12, "oldest_age_s": None, "started": 3, "finished": 4, "failed": 5, "workers": 0
    }  # fmt: skip
    output = io.StringIO()
    Console(file=output, width=100).print(stats_table({"bulk": row}))
    assert "bulk" in output.getvalue()
    assert "12" in output.getvalue()
    assert "moodq worker" in workers_line({})
    assert workers_line({"a": "idle", "b": "busy"}) == "workers: 2 alive: a (idle), b (busy)"
    assert "moodq resume" in workers_line({"a": "suspended"}, paused=True)
