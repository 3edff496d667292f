"""Limits that need no server: what is refused, what is cut, how long a producer waits, what is printed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner
from redis import Redis

from moodq_config.cli_config import command as config_command
from moodq_config.contracts import CUT_FACTOR, ItemLimits, Result, parse_item
from moodq_config.errors import BadInput, ErrorCode, QueueFull, RateLimited
from moodq_config.memory import CLAIM_SHARES, ENQUEUE_SHARES, MIB, memory_bound
from moodq_config.settings import load_settings
from moodq_producer.backoff import LONGEST_S
from moodq_producer.enqueue import Admission, Gate, Outcome, QueuedJob
from moodq_producer.jobs import JobMaker
from moodq_worker.rq_job import JobLimits, MoodqJob

NOWHERE = Redis(port=1)
FULL, IN = [Outcome.TOO_LONG, 9], [Outcome.ENQUEUED]


def item(text: str, limits: ItemLimits, **fields: Any) -> Any:
    return parse_item({"text": text, "tasks": ["sentiment"], **fields}, limits)


def refused(text: str, limits: ItemLimits, **fields: Any) -> BadInput:
    with pytest.raises(BadInput) as caught:
        item(text, limits, **fields)
    return caught.value


def test_a_long_text_is_refused_unless_the_settings_or_the_item_have_it_cut() -> None:
    refuse = ItemLimits(max_text_chars=10)
    truncate = ItemLimits(max_text_chars=10, long_text="truncate")
    error = refused("x" * 11, refuse)
    assert error.code == ErrorCode.TEXT_TOO_LONG
    assert "MOODQ_LONG_TEXT=truncate" in error.message
    assert item("x" * 11, truncate).text == "x" * 11  # the worker cuts it
    assert item("x" * 11, refuse, long_text="truncate").text == "x" * 11
    assert refused("x" * 11, truncate, long_text="refuse").code == ErrorCode.TEXT_TOO_LONG


def test_a_text_far_over_the_limit_is_refused_even_where_long_ones_are_cut() -> None:
    limits = ItemLimits(max_text_chars=10, long_text="truncate")
    assert item("x" * 10 * CUT_FACTOR, limits)
    error = refused("x" * (10 * CUT_FACTOR + 1), limits)
    assert error.code == ErrorCode.TEXT_TOO_LONG
    assert "the limit is 10" in error.message


@pytest.mark.parametrize("asked", ["cut", 1, [], {}, True])
def test_an_unknown_way_with_long_texts_is_refused(asked: object) -> None:
    assert refused("x", ItemLimits(max_text_chars=10), long_text=asked).message.startswith(
        "field 'long_text'"
    )


def test_the_size_of_metadata_is_a_setting() -> None:
    error = refused("x", ItemLimits(max_text_chars=10, max_metadata_bytes=20), metadata={"k": "x" * 20})
    assert "the limit is 20" in error.message
    assert "MOODQ_MAX_METADATA_BYTES" in error.message


def test_a_result_says_how_much_of_the_text_was_read() -> None:
    body = {"id": "a", "status": "done", "worker": "w", "attempt": 1, "finished_at": "now"}
    result = Result.model_validate(body | {"truncated": {"tokens": {"kept": 2048, "of": 5310}}})
    assert result.truncated is not None
    assert result.truncated.tokens is not None
    assert (result.truncated.tokens.kept, result.truncated.tokens.of) == (2048, 5310)
    assert result.truncated.characters is None


def test_a_producer_that_cuts_says_so_in_the_item() -> None:
    settings = load_settings(redis_url="redis://127.0.0.1:1", long_text="truncate", max_text_chars=10)
    assert JobMaker(settings).item("x" * 11, "sentiment").long_text == "truncate"


def test_a_job_of_too_many_bytes_is_refused_by_the_producer() -> None:
    maker = JobMaker(load_settings(redis_url="redis://127.0.0.1:1", max_job_mb=1))
    items = [maker.item("x" * 8_000, "sentiment") for _ in range(140)]
    with pytest.raises(BadInput, match="the limit is 1 MiB") as caught:
        maker.job(items, "bulk", NOWHERE)
    assert caught.value.code == ErrorCode.JOB_TOO_LARGE
    assert maker.job(items[:120], "bulk", NOWHERE)


@pytest.mark.parametrize(
    ("asked", "kept"),
    [("60", 60), ("0", 0), ("1000", 1000), ("1001", 1000), ("-1", 1000), ("-7", 1000), (str(10**30), 1000)],
)
def test_a_job_is_kept_as_long_as_it_asks_for_up_to_the_limit(asked: str, kept: int) -> None:
    limits = JobLimits(max_result_ttl_s=1000, max_failure_ttl_s=1000)
    job = MoodqJob("j", connection=NOWHERE, limits=limits)
    job.restore({b"data": b"[]", b"result_ttl": asked.encode(), b"failure_ttl": asked.encode()})
    assert (job.result_ttl, job.failure_ttl) == (kept, kept)


def test_a_job_that_asks_for_no_ttl_has_none_of_its_own() -> None:
    job = MoodqJob("j", connection=NOWHERE)
    job.restore({b"data": b"[]"})
    assert (job.result_ttl, job.failure_ttl) == (None, None)


def admission(
    count: int, on_full: Any = "wait", timeout_s: float | None = None, **settings: Any
) -> Admission:
    gate = Gate(load_settings(redis_url="redis://127.0.0.1:1", max_items_per_s=10, **settings))
    jobs = [QueuedJob(str(number), "bulk", ("i",), (), (), 0) for number in range(count)]
    return Admission(gate, jobs, on_full, timeout_s)


def test_a_full_queue_is_asked_with_one_job_at_growing_intervals() -> None:
    entry = admission(20)
    assert len(entry.next()) == 20
    pauses = [entry.answered([IN] * 5 + [FULL] * 15)]
    for _ in range(9):
        assert [job.id for job in entry.next()] == ["5"]
        pauses.append(entry.answered([FULL]))
    assert pauses[0] < pauses[3] < pauses[-1] <= LONGEST_S
    assert pauses[-1] >= LONGEST_S / 2
    assert entry.answered([IN]) == 0.0
    assert [job.id for job in entry.next()] == [str(number) for number in range(6, 20)]
    assert entry.answered([IN] * 14) == 0.0
    assert entry.next() == []


def test_producers_that_wait_do_not_come_at_the_same_moments() -> None:
    pauses = {admission(1).answered([FULL]) for _ in range(20)}
    assert len(pauses) > 10


def test_waiting_for_room_ends_with_the_time_out() -> None:
    with pytest.raises(QueueFull):
        admission(1, timeout_s=0.0).answered([FULL])
    with pytest.raises(QueueFull):
        admission(1, on_full="raise").answered([FULL])


def test_where_a_call_does_not_say_what_to_do_at_a_full_queue_the_settings_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(QueueFull):
        admission(1, None).answered([FULL])
    monkeypatch.setenv("MOODQ_ON_FULL", "wait")
    assert admission(1, None).answered([FULL]) > 0
    with pytest.raises(QueueFull):
        admission(1, None, full_timeout_s=0.0).answered([FULL])
    with pytest.raises(QueueFull):
        admission(1, None, timeout_s=0.0).answered([FULL])


def test_a_client_over_its_rate_is_told_when_to_come_back() -> None:
    with pytest.raises(RateLimited, match=r"more than 10 items a second; try again in 2\.500 s") as caught:
        admission(1, on_full="raise").answered([[Outcome.TOO_FAST, 2_500]])
    assert caught.value.retry_after_s == 2.5
    assert caught.value.code == ErrorCode.RATE_LIMITED
    assert 2.5 < admission(1).answered([[Outcome.TOO_FAST, 2_500]]) < 2.6


def test_what_waits_can_never_keep_workers_from_claiming() -> None:
    first, others = 0, 1
    assert ENQUEUE_SHARES[others] < CLAIM_SHARES[others] < ENQUEUE_SHARES[first] < CLAIM_SHARES[first] < 1


def test_config_prints_the_bound_of_redis_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODQ_MAX_REDIS_MB", "100")
    monkeypatch.setenv("COLUMNS", "200")
    assert "at most 100 MiB" in CliRunner().invoke(config_command).output
    shown = json.loads(CliRunner().invoke(config_command, ["--json"]).output)["redis_memory"]
    assert shown["bound"] == 100 * MIB
    assert shown["other_queues_take_jobs_below"] == 50 * MIB
    assert shown == memory_bound(load_settings()).as_dict()
    monkeypatch.setenv("MOODQ_MAX_REDIS_MB", "0")
    assert "no bound" in CliRunner().invoke(config_command).output
