"""Following a reply while it is made: what the worker publishes and what the clients make of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from moodq_config.contracts import GeneratedText, Result, ResultStatus
from moodq_config.names import events_key, result_key
from moodq_producer import AsyncClient, Client

Start = Callable[..., Any]
TEXT = "a bad day with many words in it"


def test_a_reader_gets_label_tokens_and_result_in_this_order(
    redis_url: str, start_fake_worker: Start
) -> None:
    start_fake_worker()
    with Client(redis_url) as client:
        ticket = client.submit(TEXT, ["sentiment", "reply"])
        events = list(ticket.stream(timeout=30))
    assert [event.kind for event in events] == ["label", *["token"] * (len(events) - 2), "done"]
    assert events[0].labels["sentiment"].label == "negative"  # type: ignore[union-attr]
    result = events[-1].result
    assert result is not None
    reply = result.results["reply"]
    assert "".join(event.text for event in events[1:-1]).strip() == reply.text  # type: ignore[union-attr]
    assert len(events) > 4


def test_a_reader_that_comes_late_sees_it_all_from_the_beginning(
    redis_url: str, start_fake_worker: Start
) -> None:
    start_fake_worker()
    with Client(redis_url) as client:
        ticket = client.submit(TEXT, ["sentiment", "reply"])
        ticket.wait(timeout=30)
        first = list(ticket.stream(timeout=30))
        second = list(client.stream(ticket.id, timeout=30))
    assert first == second
    assert first[0].kind == "label"


def test_a_result_whose_stream_is_gone_is_still_given(
    redis_url: str, connection: Redis, start_fake_worker: Start
) -> None:
    start_fake_worker()
    with Client(redis_url) as client:
        ticket = client.submit(TEXT, ["sentiment"])
        expected = ticket.wait(timeout=30)
        connection.delete(events_key(ticket.id))
        [event] = ticket.stream(timeout=5)
    assert event.result == expected


def ended_meanwhile(connection: Redis, id: str) -> None:
    result = Result(id=id, status=ResultStatus.DONE, worker="w", attempt=1, finished_at="now")
    body = result.model_dump_json(exclude_none=True)
    connection.xadd(events_key(id), {"event": "token", "data": '{"task": "reply", "text": "yes"}'})
    connection.xadd(events_key(id), {"event": "done", "data": body})
    connection.set(result_key(id), body)


async def test_what_comes_between_a_readers_first_two_looks_is_not_passed_over(
    redis_url: str, connection: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Client(redis_url) as client:
        look = client._redis.get

        def get(key: str) -> Any:
            ended_meanwhile(connection, "a")
            return look(key)

        monkeypatch.setattr(client._redis, "get", get)
        assert [event.kind for event in client.stream("a", timeout=5)] == ["token", "done"]
    async with AsyncClient(redis_url) as other:
        redis = await other._connected()
        look_async = redis.get

        async def get_async(key: str) -> Any:
            ended_meanwhile(connection, "b")
            return await look_async(key)

        monkeypatch.setattr(redis, "get", get_async)
        assert [event.kind async for event in other.stream("b", timeout=5)] == ["token", "done"]


async def test_the_async_client_streams_the_same(redis_url: str, start_fake_worker: Start) -> None:
    start_fake_worker()
    async with AsyncClient(redis_url) as client:
        ticket = await client.submit(TEXT, ["sentiment", "reply"])
        seen = [event async for event in client.stream(ticket.id, timeout=30)]
    with Client(redis_url) as client:
        assert list(client.stream(ticket.id, timeout=5)) == seen


def test_items_of_a_job_with_several_publish_only_their_end(
    redis_url: str, connection: Redis, start_fake_worker: Start
) -> None:
    start_fake_worker()
    with Client(redis_url) as client:
        tickets = list(client.submit_many([TEXT, TEXT], ["sentiment", "reply"]))
        results = list(client.wait([ticket.id for ticket in tickets], timeout=30))
    assert len(results) == 2
    for ticket in tickets:
        assert connection.xlen(events_key(ticket.id)) == 1


def test_the_command_line_prints_the_reply_as_it_is_made(redis_url: str, start_fake_worker: Start) -> None:
    worker = start_fake_worker()
    command = [
        sys.executable,
        "-m",
        "moodq_config.cli",
        "send",
        TEXT,
        "--tasks",
        "sentiment,reply",
        "--stream",
    ]
    env = {"MOODQ_REDIS_URL": redis_url, "PATH": "/usr/bin:/bin"}
    shown = subprocess.run(command, env=env, capture_output=True, timeout=60, check=False)
    assert shown.returncode == 0, shown.stderr.decode() + worker.log.read_text()
    lines = shown.stdout.decode().splitlines()
    assert lines[0] == "sentiment: negative 0.900"
    assert lines[1].strip() == f"echo: {TEXT}"
    told = subprocess.run([*command, "--json"], env=env, capture_output=True, timeout=60, check=True)
    kinds = [json.loads(line)["event"] for line in told.stdout.decode().splitlines()]
    assert kinds[0] == "label"
    assert kinds[-1] == "done"
    assert set(kinds[1:-1]) == {"token"}


SHORT_REPLY = """
[tasks.short]
kind = "generate"
max_new_tokens = 8
prompt.zh.system = "a"
prompt.en.system = "a"
"""


def test_a_reply_that_its_maximum_ends_ends_at_a_sentence_and_the_stream_never_showed_more(
    redis_url: str, start_fake_worker: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks_file = tmp_path / "tasks.toml"
    tasks_file.write_text(SHORT_REPLY, "utf-8")
    monkeypatch.setenv("MOODQ_TASKS_FILE", str(tasks_file))
    start_fake_worker(MOODQ_TASKS_FILE=str(tasks_file))
    with Client(redis_url) as client:
        ticket = client.submit("one two three four. five six seven eight nine", ["short"])
        events = list(ticket.stream(timeout=30))
    result = events[-1].result
    assert result is not None
    reply = result.results["short"]
    assert reply == GeneratedText(text="echo: one two three four.", finish_reason="length", tokens=8)
    assert "".join(event.text for event in events[:-1]).strip() == reply.text
