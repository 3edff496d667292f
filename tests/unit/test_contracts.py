"""Request items, job payloads and results: what is accepted, and with which code the rest is refused."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from moodq_config.contracts import (
    CONTRACT_VERSION,
    MAX_METADATA_DEPTH,
    MAX_TASKS_PER_ITEM,
    GeneratedText,
    ItemLimits,
    LabelScores,
    RequestItem,
    Result,
    ResultStatus,
    deadline_at,
    item_id,
    job_payload,
    parse_item,
    payload_items,
)
from moodq_config.errors import BadInput, ErrorCode

LIMITS = ItemLimits(max_text_chars=50, task_names=frozenset({"sentiment", "reply"}))
GOOD: dict[str, Any] = {"id": "a-1", "text": "  好极了  ", "tasks": ["sentiment"]}


def refused(raw: object, limits: ItemLimits = LIMITS) -> BadInput:
    with pytest.raises(BadInput) as caught:
        parse_item(raw, limits)
    usable(caught.value)
    return caught.value


def usable(error: BadInput) -> None:
    assert error.code in ErrorCode
    error.message.encode("utf-8")


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def written(item: RequestItem) -> str:
    """The result a worker would write for ``item``."""
    return Result(
        id=item.id,
        status=ResultStatus.DONE,
        worker="w",
        attempt=1,
        finished_at=datetime.now(UTC).isoformat(),
        metadata=item.metadata,
    ).model_dump_json()


def test_a_good_item_comes_back_with_its_text_stripped_and_the_rest_as_given() -> None:
    item = parse_item(
        {**GOOD, "lang": "zh", "conversation": "c-1", "metadata": {"a": [1, None, "ü"]}}, LIMITS
    )
    assert (item.id, item.text, item.tasks, item.lang) == ("a-1", "好极了", ("sentiment",), "zh")
    assert json.loads(written(item))["metadata"] == {"a": [1, None, "ü"]}


def test_an_item_without_an_id_gets_one_that_is_its_own() -> None:
    raw = {"text": "x", "tasks": ["sentiment"]}
    first, second = parse_item(raw, LIMITS).id, parse_item(raw, LIMITS).id
    assert first != second
    assert item_id({"id": first}) == first


@pytest.mark.parametrize("text", ["", "   ", "\n\t\u3000"])
def test_a_text_of_nothing_but_white_space_is_empty(text: str) -> None:
    assert refused({**GOOD, "text": text}).code == ErrorCode.EMPTY_TEXT


def test_the_length_limit_counts_characters_after_stripping() -> None:
    assert parse_item({**GOOD, "text": " " + "字" * 50 + " "}, LIMITS).text == "字" * 50
    error = refused({**GOOD, "text": "字" * 51})
    assert error.code == ErrorCode.TEXT_TOO_LONG
    for part in ("51", "50", "MOODQ_MAX_TEXT_CHARS"):
        assert part in error.message
    assert "字" not in error.message


def test_a_lone_surrogate_is_not_text() -> None:
    assert refused({**GOOD, "text": json.loads('"caf\\ud83d"')}).code == ErrorCode.INVALID_UTF8
    assert parse_item({**GOOD, "text": json.loads('"\\ud83d\\ude00"')}, LIMITS).text == "😀"


def test_an_unknown_task_is_named_together_with_the_known_ones() -> None:
    error = refused({**GOOD, "tasks": ["sentiment", "sentimant"]})
    assert error.code == ErrorCode.UNKNOWN_TASK
    assert "'sentimant'" in error.message
    assert "reply, sentiment" in error.message


def test_a_producer_that_does_not_know_the_tasks_leaves_them_to_the_worker() -> None:
    limits = ItemLimits(max_text_chars=50)
    assert parse_item({**GOOD, "tasks": ["anything"]}, limits).tasks == ("anything",)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"text": None}, "text"),
        ({"text": 3}, "text"),
        ({"text": ["a"]}, "text"),
        ({"tasks": []}, "tasks"),
        ({"tasks": "sentiment"}, "tasks"),
        ({"tasks": ["Sentiment"]}, "tasks.0"),
        ({"tasks": ["sentiment"] * (MAX_TASKS_PER_ITEM + 1)}, "tasks"),
        ({"id": ""}, "id"),
        ({"id": "a:b"}, "id"),
        ({"id": "a\n"}, "id"),
        ({"id": "a" * 129}, "id"),
        ({"id": 7}, "id"),
        ({"conversation": "a b"}, "conversation"),
        ({"lang": "fr"}, "lang"),
        ({"metadata": [1]}, "metadata"),
        ({"txet": "x"}, "txet"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], field: str) -> None:
    error = refused({**GOOD, **change})
    assert error.code == ErrorCode.INVALID_FIELD
    assert f"field '{field}'" in error.message


@pytest.mark.parametrize("field", ["text", "tasks"])
def test_a_missing_field_is_named(field: str) -> None:
    error = refused({name: value for name, value in GOOD.items() if name != field})
    assert error.code == ErrorCode.INVALID_FIELD
    assert f"field '{field}'" in error.message


@pytest.mark.parametrize("raw", [None, 1, 1.5, True, "text", ["text"]])
def test_an_item_that_is_no_object_is_refused(raw: object) -> None:
    error = refused(raw)
    assert error.code == ErrorCode.INVALID_FIELD
    assert "not an object" in error.message


def test_a_field_name_of_any_length_makes_a_short_message() -> None:
    assert len(refused({**GOOD, "x" * 100_000: 1}).message) < 300


def test_metadata_is_bounded_in_bytes_and_depth() -> None:
    fitting = {"k": "x" * (LIMITS.max_metadata_bytes - len('{"k": ""}'))}
    assert parse_item({**GOOD, "metadata": fitting}, LIMITS).metadata == fitting
    error = refused({**GOOD, "metadata": {"k": fitting["k"] + "x"}})
    assert str(LIMITS.max_metadata_bytes + 1) in error.message

    written(parse_item({**GOOD, "metadata": {"k": nested(MAX_METADATA_DEPTH - 1)}}, LIMITS))
    assert str(MAX_METADATA_DEPTH) in refused({**GOOD, "metadata": {"k": nested(MAX_METADATA_DEPTH)}}).message
    assert refused({**GOOD, "metadata": {"k": nested(900)}}).code == ErrorCode.INVALID_FIELD


@pytest.mark.parametrize("metadata", [{"k": "\ud800"}, {"\ud800": 1}, {"k": [{"\udfff": 1}]}])
def test_metadata_that_could_not_be_written_as_utf8_is_refused(metadata: dict[str, Any]) -> None:
    assert refused({**GOOD, "metadata": metadata}).code == ErrorCode.INVALID_UTF8


@pytest.mark.parametrize("value", [float("nan"), float("inf"), datetime.now(UTC), b"x"])
def test_metadata_that_is_not_json_is_refused(value: object) -> None:
    assert "is not JSON" in refused({**GOOD, "metadata": {"k": value}}).message


@pytest.mark.parametrize("raw", [None, [], {}, {"id": 3}, {"id": "a:b"}, {"id": "a\n"}, {"id": "\ud800"}])
def test_an_unusable_id_is_no_id(raw: object) -> None:
    assert item_id(raw) is None


def test_the_id_can_be_read_from_an_item_that_is_otherwise_wrong() -> None:
    assert item_id({"id": "a-1", "text": 3, "nonsense": True}) == "a-1"


def test_a_payload_survives_the_way_through_json() -> None:
    items = [
        RequestItem(text="a", tasks=("sentiment",)),
        RequestItem(id="b", text="b", tasks=("reply",), lang="en"),
    ]
    args = json.loads(json.dumps([job_payload(items)]))
    assert [parse_item(raw, LIMITS) for raw in payload_items(args, 2)] == items


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (None, ErrorCode.BROKEN_JSON),
        ("x", ErrorCode.BROKEN_JSON),
        ([], ErrorCode.BROKEN_JSON),
        ([1], ErrorCode.BROKEN_JSON),
        ([{"v": 1, "items": [1]}, 2], ErrorCode.BROKEN_JSON),
        ([{}], ErrorCode.WRONG_VERSION),
        ([{"v": 2, "items": [1]}], ErrorCode.WRONG_VERSION),
        ([{"v": True, "items": [1]}], ErrorCode.WRONG_VERSION),
        ([{"v": "1", "items": [1]}], ErrorCode.WRONG_VERSION),
        ([{"v": 1}], ErrorCode.BROKEN_JSON),
        ([{"v": 1, "items": []}], ErrorCode.BROKEN_JSON),
        ([{"v": 1, "items": {"0": 1}}], ErrorCode.BROKEN_JSON),
        ([{"v": 1, "items": [1, 2, 3]}], ErrorCode.TOO_MANY_ITEMS),
    ],
)
def test_a_payload_of_another_shape_is_refused(args: object, code: ErrorCode) -> None:
    with pytest.raises(BadInput) as caught:
        payload_items(args, 2)
    assert caught.value.code == code


def test_a_wrong_version_names_the_one_that_is_spoken_and_stays_short() -> None:
    for version in ("x" * 100_000, nested(900), {"a": nested(900)}):
        with pytest.raises(BadInput) as caught:
            payload_items([{"v": version, "items": [1]}], 2)
        assert str(CONTRACT_VERSION) in caught.value.message
        assert len(caught.value.message) < 300


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(codec=None, exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
near_items = st.fixed_dictionaries(
    {},
    optional={
        "id": st.from_regex(r"[a-z]{1,5}", fullmatch=True) | json_values,
        "text": st.text(st.characters(codec=None, exclude_categories=())) | json_values,
        "tasks": st.lists(st.sampled_from(["sentiment", "reply", "other"])) | json_values,
        "conversation": json_values,
        "lang": st.sampled_from(["zh", "en", "fr"]) | json_values,
        "metadata": st.dictionaries(st.text(), json_values, max_size=3) | json_values,
        "more": json_values,
    },
)


@given(raw=json_values | near_items)
def test_any_json_value_is_an_item_that_can_be_answered_or_bad_input(raw: object) -> None:
    item_id(raw)
    try:
        item = parse_item(raw, LIMITS)
    except BadInput as error:
        usable(error)
        return
    assert 1 <= len(item.text) <= LIMITS.max_text_chars
    assert set(item.tasks) <= {"sentiment", "reply"}
    assert Result.model_validate_json(written(item)).metadata == item.metadata


@given(
    args=json_values
    | st.lists(
        st.fixed_dictionaries({}, optional={"v": st.just(1) | json_values, "items": json_values}), max_size=2
    )
)
def test_any_json_value_is_a_payload_or_bad_input(args: object) -> None:
    try:
        items = payload_items(args, 2)
    except BadInput as error:
        usable(error)
        return
    assert 1 <= len(items) <= 2


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)
ids = st.from_regex(r"[A-Za-z0-9_.\-]{1,128}", fullmatch=True)
json_objects = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=8),
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | words,
    max_size=4,
)
items = st.builds(
    RequestItem,
    id=ids,
    text=words.map(str.strip),
    tasks=st.lists(st.sampled_from(["sentiment", "reply"]), min_size=1, max_size=4).map(tuple),
    conversation=st.none() | ids,
    lang=st.sampled_from([None, "zh", "en"]),
    metadata=st.none() | json_objects,
    long_text=st.sampled_from([None, "refuse", "truncate"]),
)


@given(sent=st.lists(items, min_size=1, max_size=5))
def test_whatever_a_producer_may_send_a_worker_reads_as_it_was(sent: list[RequestItem]) -> None:
    wire = json.dumps([job_payload(sent)], ensure_ascii=False).encode()
    assert [parse_item(raw, LIMITS) for raw in payload_items(json.loads(wire), 5)] == sent


@given(
    result=st.builds(
        Result,
        id=ids,
        status=st.sampled_from(ResultStatus),
        results=st.dictionaries(
            st.sampled_from(["sentiment", "reply"]),
            st.builds(
                LabelScores,
                label=words,
                probability=st.floats(0, 1),
                scores=st.dictionaries(words, st.floats(0, 1), max_size=4),
            )
            | st.builds(GeneratedText, text=words, finish_reason=st.just("stop"), tokens=st.integers(0)),
        ),
        worker=words,
        attempt=st.integers(0, 99),
        finished_at=words,
        metadata=st.none() | json_objects,
    )
)
def test_whatever_a_worker_answers_a_producer_reads_as_it_was(result: Result) -> None:
    assert Result.model_validate_json(result.model_dump_json(exclude_none=True)) == result


def test_a_result_survives_the_way_through_json() -> None:
    result = Result(
        id="a",
        status=ResultStatus.DONE,
        results={
            "sentiment": LabelScores(
                label="positive", probability=0.9, scores={"positive": 0.9, "negative": 0.1}
            ),
            "reply": GeneratedText(text="好", finish_reason="stop", tokens=1),
        },
        worker="w",
        attempt=1,
        finished_at="2025-01-01T00:00:00+00:00",
    )
    assert Result.model_validate_json(result.model_dump_json()) == result
    with pytest.raises(ValidationError):
        Result.model_validate_json(result.model_dump_json().replace('"v":1', '"v":2'))


def test_a_label_below_the_threshold_is_uncertain_and_its_scores_still_tell_the_best() -> None:
    scores = {"a": 0.3, "b": 0.5, "c": 0.2}
    assert LabelScores.of(scores) == LabelScores(label="b", probability=0.5, scores=scores)
    assert LabelScores.of(scores, threshold=0.5).label == "b"
    unsure = LabelScores.of(scores, threshold=0.51)
    assert (unsure.label, unsure.probability, unsure.best) == ("uncertain", 0.5, "b")


def test_a_deadline_is_a_moment_with_its_offset() -> None:
    limits = ItemLimits(max_text_chars=100)
    raw = {"text": "x", "tasks": ["sentiment"]}
    for deadline in ("2026-01-02T03:04:05Z", "2026-01-02T11:04:05+08:00"):
        item = parse_item({**raw, "deadline": deadline}, limits)
        assert item.deadline == deadline
        assert deadline_at(deadline) == 1767323045.0
    for wrong in ("2026-01-02T03:04:05", "soon", "", "x" * 100, 5):
        with pytest.raises(BadInput, match="deadline"):
            parse_item({**raw, "deadline": wrong}, limits)
