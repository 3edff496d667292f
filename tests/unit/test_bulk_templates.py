"""Counting templates: the frequent ones first, in bounded memory."""

from __future__ import annotations

import json

import pytest

from moodq_config.contracts import LabelScores
from moodq_config.errors import ConfigError
from moodq_producer.bulk import templates
from moodq_producer.bulk.records import read_records
from moodq_producer.bulk.templates import Templates


def scores(label: str, probability: float = 0.9) -> dict[str, LabelScores]:
    return {"sentiment": LabelScores(label=label, probability=probability, scores={label: probability})}


def test_a_template_says_how_often_it_came_and_how_far_its_labels_agree() -> None:
    counted = Templates()
    for number in range(3):
        counted.add(f"disk {number} is full", scores("negative", 0.8))
    counted.add("disk 9 is full", scores("positive", 0.6))
    counted.add("all is well", scores("positive"))
    first, second = counted.most_frequent()
    assert (first["template"], first["rows"], first["label"]) == ("disk <*> is full", 4, "negative")
    assert (first["agree"], first["probability"], first["share"]) == ("0.750", "0.750", "0.8000")
    assert first["example"] == "disk 0 is full"
    assert second["template"] == "all is well"


def test_rare_templates_are_given_up_and_their_rows_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "MAX_TEMPLATES", 10)
    counted = Templates()
    for _ in range(5):
        counted.add("frequent", scores("positive"))
    for number in range(500):
        counted.add("rare " + "x" * number, scores("negative"))
    table = counted.most_frequent()
    assert len(table) <= 10
    assert table[0]["template"] == "frequent"
    assert sum(row["rows"] for row in table) + counted.others["sentiment"] == 505


@pytest.mark.parametrize(
    "line", [b"not json", b"[]", b'{"line": 1}', b'{"line": 1, "text": "x", "results": 7}']
)
def test_a_file_of_something_else_is_refused_with_its_line(line: bytes) -> None:
    good = b'{"line": 1, "text": "x", "results": {}}'
    with pytest.raises(ConfigError, match=r"some\.jsonl:2"):
        list(read_records([good, line], "some.jsonl"))


def test_what_moodq_follow_wrote_is_read_as_well() -> None:
    found = {"sentiment": scores("negative")["sentiment"].model_dump()}
    rows = [
        {"id": "5f-0", "file": "a.log", "offset": 0, "text": "disk 1 is full", "results": found},
        {"id": "ab-1-0", "stream": "in", "entry": "1-0", "text": "", "error": {"code": "empty_text"}},
    ]
    first, second = read_records([json.dumps(row).encode() for row in rows], "labels.jsonl")
    assert (first.where, first.labels["sentiment"].label) == ("a.log:5f-0", "negative")
    assert (second.where, second.code) == ("ab-1-0", "empty_text")
