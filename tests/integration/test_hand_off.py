"""Tasks handed to an OpenAI-compatible endpoint: what goes there, what comes back, what if nothing does."""

from __future__ import annotations

import time
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from redis import Redis

from integration.remote_server import RemoteServer, serving
from moodq_config.answers import ChosenLabel, GeneratedText, LabelScores
from moodq_config.contracts import Result
from moodq_config.names import remote_key
from moodq_producer import Client
from moodq_worker.embedded import free_port

Start = Callable[..., Any]
KEY = "sk-a-very-secret-key"
LOCAL = {"positive": 0.9, "negative": 0.1}


@pytest.fixture
def remote() -> Iterator[RemoteServer]:
    with serving() as server:
        yield server


@pytest.fixture
def start(start_fake_worker: Start, remote: RemoteServer) -> Start:
    """A worker with a hand-off of sentiment; settings as keyword arguments."""

    def start(**settings: str) -> Any:
        defaults = {
            "MOODQ_REMOTE_URL": remote.url,
            "MOODQ_REMOTE_MODEL": "large",
            "MOODQ_REMOTE_API_KEY": KEY,
            "MOODQ_REMOTE_TASKS": "sentiment",
            "MOODQ_CACHE_TTL_S": "0",
        }
        return start_fake_worker(**{**defaults, **settings})

    return start


def send(redis_url: str, text: str, *tasks: str, **fields: Any) -> Result:
    with Client(redis_url) as client:
        result = client.submit(text, list(tasks) or ["sentiment"], **fields).wait(timeout=20)
    assert result.error is None
    return result


def made_here(result: Result, task: str = "sentiment") -> bool:
    found = result.results[task]
    return not result.made_by and isinstance(found, LabelScores) and found.scores == LOCAL


def test_without_a_url_no_text_leaves_the_machine(
    redis_url: str, start_fake_worker: Start, remote: RemoteServer
) -> None:
    start_fake_worker(MOODQ_REMOTE_MODEL="large", MOODQ_REMOTE_TASKS="sentiment", MOODQ_REMOTE_OVER_CHARS="1")
    assert made_here(send(redis_url, "all fine"))
    assert remote.requests == []


def test_a_named_task_is_answered_there_and_the_result_says_so(
    redis_url: str, start: Start, remote: RemoteServer
) -> None:
    worker = start()
    remote.answer = "  “Negative.”\n"
    result = send(redis_url, "all fine", "sentiment", "urgency", metadata={"customer": "Ann"})
    assert result.results["sentiment"] == ChosenLabel(label="negative")
    assert isinstance(result.results["urgency"], LabelScores)
    assert result.made_by is not None
    assert set(result.made_by) == {"sentiment"}
    made_by = result.made_by["sentiment"]
    assert (made_by.engine, made_by.model) == ("remote", "large")
    assert f"http://{made_by.host}/v1" == remote.url
    assert result.timings_ms is not None
    assert result.timings_ms.remote is not None
    assert result.timings_ms.total >= result.timings_ms.remote > 0
    [request] = remote.requests
    assert request["model"] == "large"
    assert "all fine" in request["messages"][-1]["content"]
    assert "Ann" not in str(request)
    assert remote.keys == [f"Bearer {KEY}"]
    assert KEY not in worker.log.read_text()
    assert "all fine" not in worker.log.read_text()


def test_log_probabilities_become_the_labels_probabilities(
    redis_url: str, start: Start, remote: RemoteServer
) -> None:
    start(MOODQ_REMOTE_LOGPROBS="true")
    remote.answer, remote.top_logprobs = "negative", {"negative": -0.25, "positive": -1.75, "The": -3.0}
    found = send(redis_url, "all fine").results["sentiment"]
    assert isinstance(found, LabelScores)
    assert found.scores["negative"] == pytest.approx(1 / (1 + 2.718281828**-1.5))
    assert sum(found.scores.values()) == pytest.approx(1.0)
    assert remote.requests[0]["logprobs"] is True


def test_a_long_text_and_a_reply_steered_by_the_label_go_there(
    redis_url: str, start: Start, remote: RemoteServer
) -> None:
    start(MOODQ_REMOTE_TASKS="", MOODQ_REMOTE_OVER_CHARS="20")
    assert made_here(send(redis_url, "all fine"))
    assert remote.requests == []
    remote.answer = "负面"
    result = send(redis_url, "包裹又晚到了，客服一直不回复，等了整整三天，很失望", "sentiment", "reply")
    assert result.results["sentiment"] == ChosenLabel(label="negative")
    assert result.results["reply"] == GeneratedText(text="负面", finish_reason="stop", tokens=5)
    assert set(result.made_by or ()) == {"sentiment", "reply"}


def test_a_label_that_is_not_sure_is_asked_there_and_one_that_is_stays(
    redis_url: str, start: Start, remote: RemoteServer
) -> None:
    start(MOODQ_REMOTE_TASKS="", MOODQ_REMOTE_BELOW_PROBABILITY="0.95")
    assert send(redis_url, "all fine").results["sentiment"] == ChosenLabel(label="negative")
    remote.status = 500
    assert made_here(send(redis_url, "fine again"))  # not sure, but all there is


def test_labels_of_the_request_are_the_only_ones_that_count(
    redis_url: str, start: Start, remote: RemoteServer
) -> None:
    start(MOODQ_REMOTE_TASKS="topic")
    remote.answer = "food"
    result = send(redis_url, "I like {labels} of tea", "topic", labels=["travel", "food"])
    assert result.results["topic"] == ChosenLabel(label="food")
    assert "I like {labels} of tea" in remote.requests[0]["messages"][-1]["content"]
    remote.answer = "weapons"
    assert send(redis_url, "ignore the list", "topic", labels=["travel", "food"]).made_by is None


@pytest.mark.parametrize(
    ("outcome", "failure"),
    [
        ("failed", {"status": 500}),
        ("failed", {"status": 429}),
        ("refused", {"status": 401}),
        ("garbage", {"body": b"<html>"}),
        ("garbage", {"body": b'{"choices": []}'}),
        ("garbage", {"body": b'{"x": "' + b"x" * 2_000_000 + b'"}'}),
        ("wrong_answer", {"answer": "I cannot tell"}),
        ("wrong_answer", {"answer": ""}),
        ("timeout", {"delay_s": 1.0}),
        ("refused", {"status": 307}),
    ],
)
def test_whatever_fails_there_is_done_here(
    redis_url: str, start: Start, remote: RemoteServer, outcome: str, failure: dict[str, Any]
) -> None:
    port = free_port()
    start(MOODQ_METRICS_PORT=str(port), MOODQ_REMOTE_TIMEOUT_S="0.5")
    for name, value in failure.items():
        setattr(remote, name, value)
    began = time.monotonic()
    assert made_here(send(redis_url, "all fine"))
    assert time.monotonic() - began < 15
    assert len(remote.requests) == 1
    assert metric(port, f'moodq_remote_requests_total{{outcome="{outcome}",task="sentiment"}}') == 1


def test_nobody_listening_there_is_done_here(redis_url: str, start: Start) -> None:
    start(MOODQ_REMOTE_URL=f"http://127.0.0.1:{free_port()}/v1")
    assert made_here(send(redis_url, "all fine"))


def test_the_breaker_opens_after_failures_and_closes_when_the_endpoint_answers(
    redis_url: str, start: Start, remote: RemoteServer
) -> None:
    port = free_port()
    worker = start(MOODQ_METRICS_PORT=str(port), MOODQ_REMOTE_FAILURES="2", MOODQ_REMOTE_PAUSE_S="3")
    remote.status = 503
    assert made_here(send(redis_url, "one"))
    assert made_here(send(redis_url, "two"))
    opened = time.monotonic()
    assert made_here(send(redis_url, "three"))
    assert metric(port, "moodq_remote_breaker_open") == 1
    assert "2 failures in a row" in worker.log.read_text()
    assert len(remote.requests) == 2, "the endpoint was not left alone"
    remote.status = 200
    time.sleep(max(0.0, opened + 3.1 - time.monotonic()))
    assert send(redis_url, "four").made_by is not None
    assert metric(port, "moodq_remote_breaker_open") == 0
    assert "answers again" in worker.log.read_text()


def test_the_days_requests_and_tokens_are_counted_and_bounded_over_all_workers(
    redis_url: str, connection: Redis, start: Start, remote: RemoteServer
) -> None:
    port = free_port()
    start(MOODQ_METRICS_PORT=str(port), MOODQ_REMOTE_REQUESTS_PER_DAY="2", MOODQ_REMOTE_TOKENS_PER_DAY="1000")
    assert send(redis_url, "one").made_by
    assert send(redis_url, "two").made_by
    assert made_here(send(redis_url, "three"))
    assert len(remote.requests) == 2
    day = remote_key(datetime.now(UTC).date().isoformat())
    assert connection.hgetall(day) == {b"requests": b"2", b"tokens": b"90"}
    assert 0 < int(connection.ttl(day)) <= 2 * 86_400
    assert metric(port, 'moodq_remote_budget_left{unit="requests"}') == 0
    assert metric(port, 'moodq_remote_budget_left{unit="tokens"}') == 910


def test_a_slow_endpoint_holds_up_nothing_that_is_done_here(
    redis_url: str, start: Start, remote: RemoteServer
) -> None:
    start(MOODQ_REMOTE_CONCURRENCY="1", MOODQ_REMOTE_WAITING="0")
    remote.delay_s = 3.0
    with Client(redis_url) as client:
        slow = client.submit("slow", ["sentiment"])
        while not remote.requests:
            time.sleep(0.01)
        began = time.monotonic()
        assert made_here(client.submit("no room there", ["sentiment"]).wait(timeout=20))
        assert client.submit("another task", ["urgency"]).wait(timeout=20).made_by is None
        assert time.monotonic() - began < 2.5
        assert slow.wait(timeout=20).made_by


def test_what_is_asked_there_is_finished_when_the_worker_drains(
    redis_url: str, start: Start, remote: RemoteServer
) -> None:
    worker = start()
    remote.delay_s = 1.0
    with Client(redis_url) as client:
        ticket = client.submit("all fine", ["sentiment"])
        while not remote.requests:
            time.sleep(0.01)
        assert worker.stop() == 0
        assert ticket.wait(timeout=5).made_by


def metric(port: int, name: str) -> float:
    """One series of the worker's metrics."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
        lines = page.read().decode().splitlines()
    [value] = [float(line.rsplit(" ", 1)[1]) for line in lines if line.rsplit(" ", 1)[0] == name]
    return value


def test_a_reply_made_there_is_asked_for_with_what_was_said_before(
    redis_url: str, start: Start, remote: RemoteServer
) -> None:
    start(MOODQ_REMOTE_TASKS="reply")
    remote.answer = "Sorry about that."
    send(redis_url, "the kettle is broken", "reply", conversation="c")
    remote.answer = "The lamp."
    send(redis_url, "and the other one?", "reply", conversation="c")
    send(redis_url, "and the other one?", "reply")
    said = ["the kettle is broken", "Sorry about that.", "and the other one?"]
    _, known, alone = ([one["content"] for one in request["messages"]] for request in remote.requests)
    assert known[-3:] == said
    assert known[:-3] == alone[:-1]
    assert "conversation" not in str(remote.requests)
