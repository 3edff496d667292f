"""The pure parts of ``moodq follow``: joining lines, windows, alerts, outputs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from moodq_config.answers import Answer, LabelScores, LabelSet, Score
from moodq_config.errors import BadInput, ConfigError
from moodq_config.tasks import load_tasks
from moodq_producer.stream.alerts import Alert, rule
from moodq_producer.stream.multiline import MAX_BYTES, MAX_LINES, Joiner, Line, joining
from moodq_producer.stream.records import Reading, Record, duration_s
from moodq_producer.stream.running import _end
from moodq_producer.stream.sinks import LineSink
from moodq_producer.stream.windows import Shares, Sliding, Watch, window

TASKS = load_tasks()


def judged(label: str) -> dict[str, Answer]:
    other = {"positive": "negative", "negative": "positive"}[label]
    return {"sentiment": LabelScores(label=label, probability=1.0, scores={label: 1.0, other: 0.0})}


def lines(*texts: str) -> list[Line]:
    found, start = [], 0
    for text in texts:
        found.append(Line(start, start + len(text) + 1, text.encode()))
        start += len(text) + 1
    return found


def test_lines_are_joined_from_one_beginning_to_the_next() -> None:
    joiner = Joiner(joining(r"^\S", 1.0))
    done = [record for line in lines("a", " b", " c", "d", " e") for record in joiner.add(line, 0.0)]
    assert done == [Line(0, 8, b"a\n b\n c")]
    assert joiner.start == 8
    assert joiner.paused(0.9) == []
    assert joiner.paused(1.0) == [Line(8, 13, b"d\n e")]
    assert joiner.start is None


def test_a_record_that_never_ends_is_cut_by_lines_and_by_bytes() -> None:
    joiner = Joiner(joining("^begin", 1.0))
    done = [record for line in lines(*["x"] * (2 * MAX_LINES + 1)) for record in joiner.add(line, 0.0)]
    assert [record.data.count(b"x") for record in done] == [MAX_LINES, MAX_LINES]
    joiner.flush()
    done = [record for line in lines(*["x" * 10_000] * 20) for record in joiner.add(line, 0.0)]
    assert done
    assert all(len(record.data) <= MAX_BYTES for record in done)


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="no regular expression"):
        joining("(", 1.0)


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("10s", 10), ("1.5m", 90), ("2h", 7200), ("1d", 86400)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert duration_s(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "5 minutes", "-1s", "0s", "8d", "nan s", "1e9s"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"duration|range"):
        duration_s(text)


def test_a_tumbling_window_begins_anew_and_a_sliding_one_keeps_its_span() -> None:
    tumbling, sliding = Watch(window("10s"), 0.0), Watch(window("10s/5s"), 0.0)
    told = []
    for second in range(31):
        for name, watch in (("tumbling", tumbling), ("sliding", sliding)):
            if (shares := watch.step(second)) is not None:
                told.append((name, second, shares.items["sentiment"]))
            watch.add(second + 0.5, judged("negative"))
    assert [(second, items) for name, second, items in told if name == "tumbling"] == [
        (10, 10),
        (20, 10),
        (30, 10),
    ]
    assert [second for name, second, _ in told if name == "sliding"] == [5, 10, 15, 20, 25, 30]
    assert [items for name, _, items in told if name == "sliding"] == [5, 10, 10, 10, 10, 10]


def test_a_window_that_was_not_looked_at_for_long_is_told_once() -> None:
    watch = Watch(window("1s"), 0.0)
    assert watch.step(7.3) is not None
    assert watch.step(7.9) is None
    assert watch.step(8.0) is not None


def test_shares_count_labels_of_every_kind_of_task_that_has_them() -> None:
    shares = Shares()
    shares.add(judged("negative"))
    shares.add(judged("positive"))
    shares.add(
        {"aspects": LabelSet(labels=["price", "taste"], scores={"price": 0.9, "taste": 0.8, "x": 0.1})}
    )
    shares.add({"needs_attention": Score(score=0.5, scores={"no": 0.5, "yes": 0.5})})
    assert shares.of("sentiment", "negative") == 0.5
    assert shares.of("aspects", "price") == shares.of("aspects", "taste") == 1.0
    assert shares.of("nothing", "x") == 0.0
    assert shares.told() == "2 sentiment: positive 50%, negative 50%; 1 aspects: taste 100%, price 100%"


def test_what_leaves_a_sliding_window_costs_no_memory() -> None:
    sliding = Sliding(6.0)
    for tenth in range(10_000):
        sliding.add(tenth / 10, judged("negative"))
        assert sliding.shares(tenth / 10).items["sentiment"] <= 62
    assert len(sliding._parts) <= 62


def test_an_alert_fires_once_and_is_cleared_once_however_the_share_wavers() -> None:
    alert = Alert(rule("negative>0.4 over 10s min 5", TASKS, ["sentiment"]))
    told = []
    shares = [0.0] * 10 + [0.6] * 20 + [0.35, 0.45] * 20 + [0.1] * 20 + [0.6] * 20
    for second, share in enumerate(shares):
        for number in range(20):
            alert.add(second, judged("negative" if number < share * 20 else "positive"))
        if (event := alert.step(second)) is not None:
            told.append((event.state, event.share))
    assert [state for state, _ in told] == ["firing", "cleared", "firing"]
    assert told[0][1] > 0.4
    assert told[1][1] < 0.32


def test_an_alert_says_nothing_of_a_few_items_and_is_cleared_when_nothing_comes_any_more() -> None:
    alert = Alert(rule("negative>0.4 over 10s min 5", TASKS, ["sentiment"]))
    for _ in range(4):
        alert.add(0.0, judged("negative"))
    assert alert.step(0.0) is None
    alert.add(0.0, judged("negative"))
    fired = alert.step(0.0)
    assert fired is not None
    assert fired.text == "firing: negative>0.4 over 10s min 5 (negative 100.0% of 5 items)"
    assert alert.step(1.0) is None
    cleared = alert.step(11.0)
    assert cleared is not None
    assert (cleared.state, cleared.items) == ("cleared", 0)


def test_an_alert_may_look_for_too_little() -> None:
    alert = Alert(rule("sentiment.positive<0.5 over 1m clear 0.6 min 1", TASKS, ["sentiment"]))
    alert.add(0.0, judged("negative"))
    assert (event := alert.step(0.0)) is not None
    assert event.state == "firing"
    alert.add(1.0, judged("positive"))
    assert alert.step(1.0) is None
    alert.add(2.0, judged("positive"))
    assert (event := alert.step(2.0)) is not None
    assert event.state == "cleared"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is not understood; write"),
        ("negative > 0.4", "is not understood; write"),
        ("negative>40 over 5m", "'40' is no share; accepted: 0 to 1"),
        ("negative>0.4 over 5 minutes", "'minutes' is not understood"),
        ("negative>0.4 over soon", "no duration"),
        ("negativ>0.4 over 5m", "sentiment has no label 'negativ', but positive, negative"),
        ("intent.complaint>0.4 over 5m", "task 'intent' is not asked for; --tasks has sentiment"),
        ("negative>0.4 over 5m clear 0.5", "clear 0.5 must be below the threshold 0.4"),
        ("negative<0.4 over 5m clear 0.3", "clear 0.3 must be above the threshold 0.4"),
        ("negative>0.4 over 5m max 3", "'max 3' is not understood"),
    ],
)
def test_an_alert_that_is_wrong_is_refused_with_what_is_wrong(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        rule(text, TASKS, ["sentiment"])
    assert told in error.value.message


def test_a_task_without_labels_can_have_no_alert() -> None:
    with pytest.raises(ConfigError, match="gives no labels"):
        rule("reply.x>0.1 over 5m", TASKS, ["sentiment", "reply"])


def test_an_output_is_appended_to_behind_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    whole = b'{"id": "1"}\n' * 10_000
    for torn in (b"", b'{"id": "2", "te', b"x" * 200_000):
        path.write_bytes(whole + torn)
        sink = LineSink(path)
        asyncio.run(sink.write([{"id": "3", "text": "好"}]))
        asyncio.run(sink.close())
        assert path.read_bytes() == whole + '{"id": "3", "text": "好"}\n'.encode()
    path.write_bytes(b"never a line end")
    asyncio.run(LineSink(path).close())
    assert path.read_bytes() == b""


def test_an_output_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written"):
        LineSink(tmp_path / "missing" / "out.jsonl")


def test_a_text_is_taken_out_of_json_with_the_fields_to_keep() -> None:
    reading = Reading(json=True, column="message", kept=("host", "level"))
    row = {"message": "很差", "host": "a", "other": 1}
    assert reading.text(json.dumps(row).encode()) == ("很差", {"host": "a", "level": None})
    for wrong in (b"[1]", b"{", b'{"message": 1}', b'{"text": "x"}', b'{"message": "\\ud800"}', b"\xff"):
        with pytest.raises(BadInput):
            reading.text(wrong)


def test_the_item_of_a_record_names_its_text_so_that_no_result_is_taken_for_anothers() -> None:
    one, other = Record("a-0", {}, None, "short"), Record("a-0", {}, None, "short\nand more")
    assert one.id == other.id
    assert one.item_id != other.item_id
    assert one.item_id == Record("a-0", {"file": "x"}, 7, "short").item_id


async def test_a_task_that_loses_its_cancellation_is_ended_all_the_same() -> None:
    lost = 0

    async def deaf() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if lost == 2:
                    raise
                lost += 1

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    await asyncio.wait_for(_end(task), timeout=30)
    assert task.cancelled()
    assert lost == 2
