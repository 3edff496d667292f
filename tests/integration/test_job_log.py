"""One line a job: what a program that collects the worker's log finds in it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moodq_producer.client import Client

#: Types of the fixtures, see conftest.
FakeWorker = Any
StartFakeWorker = Callable[..., Any]
Push = Callable[..., Any]

MARK = "the parcel is late"


def lines(log: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def job_lines(worker: FakeWorker, count: int) -> list[dict[str, Any]]:
    """The job lines once there are ``count``."""
    deadline = time.monotonic() + 10
    while True:
        found = [line for line in lines(worker.log) if line.get("event.action") == "job"]
        if len(found) >= count:
            assert len(found) == count
            return found
        assert time.monotonic() < deadline, worker.log.read_text("utf-8")
        time.sleep(0.02)


def test_a_job_is_one_line_of_json_however_many_items_it_has_and_no_text_is_in_it(
    redis_url: str, start_fake_worker: StartFakeWorker
) -> None:
    worker = start_fake_worker(MOODQ_LOG_FORMAT="json")
    with Client(redis_url) as client:
        single = client.submit(MARK, id="one")
        result = single.wait(10)
        [line] = job_lines(worker, 1)
        assert line["message"].startswith("job one done: 1 item in ")
        assert line["service.name"] == "moodq-worker"
        assert line["service.node.name"] == worker.name
        assert line["event.outcome"] == "success"
        assert line["moodq.job.id"] == "one"
        assert (line["moodq.job.queue"], line["moodq.job.outcome"]) == ("interactive", "done")
        assert (line["moodq.job.items"], line["moodq.job.attempt"]) == (1, 1)
        assert result.model is not None
        assert line["moodq.model.precision"] == result.model.precision
        timings = line["moodq.timings_ms"]
        assert list(timings) == ["queue", "batch", "prefill", "decode", "total"]
        assert result.timings_ms is not None
        assert timings["prefill"] == pytest.approx(result.timings_ms.prefill, abs=0.01)
        assert timings["total"] >= result.timings_ms.total
        assert line["event.duration"] == pytest.approx(timings["total"] * 1e6, abs=1)

        items = [{"text": f"{MARK} {number}", "id": f"i{number}"} for number in range(30)]
        list(client.wait(ticket.id for ticket in client.submit_many(items, chunk=30)))
        chunk = job_lines(worker, 2)[1]
        assert (chunk["moodq.job.items"], chunk["moodq.job.queue"]) == (30, "bulk")
        assert chunk["message"].startswith(f"job {chunk['moodq.job.id']} done: 30 items in ")
    assert MARK not in worker.log.read_text("utf-8")


def test_the_line_of_a_job_tells_the_codes_of_its_items_and_each_attempt_that_failed(
    redis_url: str, push: Push, start_fake_worker: StartFakeWorker
) -> None:
    worker = start_fake_worker(
        MOODQ_LOG_FORMAT="json", MOODQ_LOG_JOBS="failed", MOODQ_RETRY_BACKOFF_S="0", MOODQ_MAX_ATTEMPTS="2"
    )
    with Client(redis_url) as client:
        client.submit("a fine day", id="fine").wait(10)
        client.submit("[[raise]]", id="raises").wait(10)
        mixed = [{"text": "fine", "id": "a"}, {"text": "fine", "id": "b", "deadline": "2026-01-01T00:00:00Z"}]
        list(client.wait(ticket.id for ticket in client.submit_many(mixed)))
        push(
            "blank", data=b'["moodq.run",null,[{"v":1,"items":[{"id":"blank","text":" ","tasks":["s"]}]}],{}]'
        )
        list(client.wait(["blank"], 10))
        found = job_lines(worker, 3)
    told = [
        (line["moodq.job.id"], line["moodq.job.outcome"], line["event.outcome"], line["moodq.job.attempt"])
        for line in found
    ]
    assert told == [
        ("raises", "retried", "unknown", 1),
        ("raises", "failed", "failure", 2),
        ("blank", "failed", "failure", 1),
    ]
    assert [line["moodq.job.codes"] for line in found] == [
        {"engine_failed": 1},
        {"engine_failed": 1},
        {"empty_text": 1},
    ]
