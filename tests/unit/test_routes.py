"""Rules of a tasks file: what can be said, what it means, and where a wrong one is."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moodq_config.answers import Answer, ChosenLabel, LabelScores, LabelSet, Score
from moodq_config.errors import ConfigError, ErrorCode
from moodq_config.routes import Route, Routes, parse_rule
from moodq_config.task_check import check_file
from moodq_config.tasks import TaskSet, load_tasks

FOUND: dict[str, Answer] = {
    "sentiment": LabelScores(label="negative", probability=0.9, scores={"positive": 0.1, "negative": 0.9}),
    "topic": LabelScores(label="退款 问题", probability=0.75, scores={"退款 问题": 0.75, "物流": 0.25}),
    "tags": LabelSet(labels=("angry", "loud"), scores={"angry": 0.8, "loud": 0.6, "sad": 0.1}),
    "attention": Score(score=0.4, scores={"no": 0.6, "yes": 0.4}),
    "urgency": ChosenLabel(label="high"),
}


@pytest.mark.parametrize(
    ("when", "holds"),
    [
        ("sentiment.negative > 0.8", True),
        ("sentiment.negative>0.9", False),
        ("sentiment.negative >= 0.9", True),
        ("sentiment.positive < 0.2", True),
        ("sentiment.positive <= 0.05", False),
        ("sentiment is negative", True),
        ("sentiment is positive", False),
        ("topic is '退款 问题'", True),
        ('topic."退款 问题" > 0.5', True),
        ("topic.物流 > 0.2", True),
        ("tags is loud and tags is angry", True),
        ("tags is sad", False),
        ("tags.sad < 0.5", True),
        ("attention > 0.3", True),
        ("attention > -1", True),
        ("attention < 0.3", False),
        ("urgency is high", True),
        ("urgency.high > 0.99", True),
        ("urgency.low > 0", False),
        ("not_asked.x > 0", False),
        ("not_asked.x < 1", False),
        ("not_asked is x", False),
        ("sentiment is positive and topic is x or urgency is high", True),
        ("sentiment is positive and (topic is x or urgency is high)", False),
        ("(((sentiment is negative)))", True),
    ],
)
def test_a_rule_holds_as_it_reads(when: str, holds: bool) -> None:
    assert parse_rule(when).holds(FOUND) is holds


def test_the_first_rule_that_holds_counts() -> None:
    routes = Routes(
        (
            Route(when="sentiment is positive", route="fans"),
            Route(when="urgency is high", route="now", reply=False),
            Route(when="sentiment is negative", route="human"),
        )
    )
    found = routes.of(FOUND)
    assert found is not None
    assert (found.route, found.reply) == ("now", False)
    assert routes.of({}) is None
    both = Route(when="sentiment is negative and topic.x > 0 or sentiment.positive > 1", route="x")
    assert Routes.tasks(both) == ("sentiment", "topic")


ROUTE = """
[[routes]]
when = "sentiment.negative > 0.8"
route = "human"

[[routes]]
when = "WHEN"
route = "ROUTE"
MORE
"""


def write(tmp_path: Path, when: str, route: str = "human", more: str = "") -> Path:
    path = tmp_path / "mine.toml"
    text = ROUTE.replace("WHEN", when.replace('"', '\\"')).replace("ROUTE", route).replace("MORE", more)
    path.write_text(text, "utf-8")
    return path


def test_a_file_may_hold_routes_alone_and_they_are_part_of_its_revision(tmp_path: Path) -> None:
    tasks = load_tasks(write(tmp_path, "urgency is high", "now", "reply = false"))
    assert [route.route for route in tasks.routes.routes] == ["human", "now"]
    assert set(tasks) == set(load_tasks())
    assert tasks.revision != load_tasks().revision
    assert tasks != load_tasks(write(tmp_path, "urgency is high", "now"))
    assert tasks.revision_of("sentiment") == load_tasks().revision_of("sentiment")
    assert not load_tasks().routes


@pytest.mark.parametrize(
    ("when", "route", "more", "line", "said"),
    [
        ("sentiment.negative > ", "human", "", 7, "at its end, character 22"),
        ("sentiment.negative", "human", "", 7, "its end"),
        ("sentiment negative > 1", "human", "", 7, "'negative', character 11"),
        ("sentiment is", "human", "", 7, "its end"),
        ("sentiment is negative or", "human", "", 7, "its end"),
        ("and", "human", "", 7, "'and', character 1"),
        ("(sentiment is negative", "human", "", 7, "its end"),
        ("sentiment is negative)", "human", "", 7, "')'"),
        ("__import__('os').system('x')", "human", "", 7, "cannot be read at '('"),
        ("sentiment.negative > 0.8; exit()", "human", "", 7, "cannot be read at"),
        ("sentiment.negative > 8e9", "human", "", 7, "cannot be read at '8e9'"),
        ("sentiment.negative > 80", "human", "", 7, "80 is no probability"),
        (
            "sentiment.angry > 0.8",
            "human",
            "",
            7,
            "'angry' is not a label of 'sentiment'; these are: positive",
        ),
        ("sentiment is angry", "human", "", 7, "'angry' is not a label"),
        ("sentiment > 0.8", "human", "", 7, "gives labels; write sentiment.label > 0.5"),
        ("needs_attention.yes > 0.8", "human", "", 7, "gives a number; write needs_attention > 0.5"),
        ("mood is bad", "human", "", 7, "'mood' is not a task that judges a text; these are:"),
        ("reply is bad", "human", "", 7, "'reply' is not a task that judges"),
        ("(" * 17 + "sentiment is negative" + ")" * 17, "human", "", 7, "16 brackets"),
        ("x" * 501, "human", "", 7, "at most 500 characters"),
        ("sentiment is negative", "Human Being", "", 8, "routes.1.route"),
        ("sentiment is negative", "human", "url = 1", 9, "not a field of a route"),
        ("sentiment is negative", "human", "reply = 3", 9, "routes.1.reply"),
    ],
)
def test_a_wrong_rule_is_told_with_file_line_and_field(
    tmp_path: Path, when: str, route: str, more: str, line: int, said: str
) -> None:
    path = write(tmp_path, when, route, more)
    with pytest.raises(ConfigError) as caught:
        load_tasks(path)
    assert caught.value.code == ErrorCode.TASKS_INVALID
    assert f"{path}, line {line}: routes.1." in caught.value.message
    assert said in caught.value.message
    [fault] = check_file(path).faults
    assert fault.told(str(path)) == caught.value.message


@pytest.mark.parametrize("text", ["routes = 3", "[routes]\nwhen = 1", "[[rules]]\nwhen = 1", ""])
def test_other_content_of_a_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    with pytest.raises(ConfigError, match="must hold only"):
        load_tasks(path)


def test_checked_tasks_have_their_routes(tmp_path: Path) -> None:
    checked = check_file(write(tmp_path, "urgency is high"))
    assert checked.faults == []
    assert checked.tasks.routes.routes == checked.routes
    assert isinstance(checked.tasks, TaskSet)


@given(st.text("ab.> <=()'\"01 andoris", max_size=60))
def test_no_text_makes_the_parser_do_other_than_read_or_refuse(when: str) -> None:
    with suppress(ValueError):
        assert parse_rule(when).holds(FOUND) in (True, False)
