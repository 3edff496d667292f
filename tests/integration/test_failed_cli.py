"""``moodq failed`` and RQ's own commands on what workers gave up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from moodq_config.settings import load_settings
from moodq_producer import Client

Start = Callable[..., Any]
Moodq = Callable[..., tuple[int, str, str]]
WAIT_S = 60.0
#: Escape sequences, and a character that reverses what is read.
EVIL = "[[raise]] \x1b]0;owned\x07 \u202egnp.exe"


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(load_settings(redis_url=redis_url)) as client:
        yield client


def run(redis_url: str, home: Path, program: str, *args: str) -> tuple[int, str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        capture_output=True,
        cwd=home,
        env={**clean, "MOODQ_REDIS_URL": redis_url, "COLUMNS": "200", "PYTHONUTF8": "1"},
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def moodq(redis_url: str, tmp_path: Path) -> Moodq:
    def command(*args: str) -> tuple[int, str, str]:
        return run(redis_url, tmp_path, "from moodq_config.cli import main; main()", *args)

    return command


@pytest.fixture
def two_failed(client: Client, start_fake_worker: Start, connection: Any) -> Any:
    """A worker, a text in a chunk that the model failed on, and a blank text that is a job of its own."""
    worker = start_fake_worker(MOODQ_RETRY_BACKOFF_S="0", MOODQ_MAX_ATTEMPTS="2")
    items = [{"id": "culprit", "text": EVIL}, {"id": "fine", "text": "fine"}]
    list(client.submit_many(items, queue="bulk"))
    blank = {"id": "blank", "text": " ", "tasks": ["sentiment"]}
    data: Any = ["moodq.run", None, [{"v": 1, "items": [blank]}], {}]
    connection.hset(
        "rq:job:blank",
        mapping={"data": json.dumps(data), "origin": "interactive", "status": "queued", "retries_left": 2},
    )
    connection.sadd("rq:queues", "rq:queue:interactive")
    connection.rpush("rq:queue:interactive", "blank")
    list(client.wait(["culprit", "fine", "blank"], WAIT_S))
    for _ in range(200):
        if connection.zcard("rq:failed:interactive") and connection.zcard("rq:failed:bulk"):
            return worker
        connection.blpop("never", timeout=0.05)
    raise AssertionError("not in the failed registries")


@pytest.mark.usefixtures("two_failed")
def test_failed_jobs_are_listed_by_queue_and_code_without_their_texts(moodq: Moodq) -> None:
    status, output, _ = moodq("failed", "list", "--json")
    rows = [json.loads(line) for line in output.splitlines()]
    assert status == 0
    assert [(row["id"], row["queue"], row["code"], row["attempts"], row["items"]) for row in rows] == [
        ("culprit", "bulk", "engine_failed", 2, ["culprit"]),
        ("blank", "interactive", "empty_text", 1, ["blank"]),
    ]
    _, table, _ = moodq("failed", "list", "--code", "engine_failed")
    assert "culprit" in table
    assert "blank" not in table
    assert "owned" not in output + table
    assert "nothing has failed" in moodq("failed", "list", "--queue", "bulk", "--code", "empty_text")[1]


@pytest.mark.usefixtures("two_failed")
def test_one_is_shown_with_its_texts_only_when_asked_and_their_control_characters_escaped(
    moodq: Moodq,
) -> None:
    status, output, _ = moodq("failed", "show", "culprit")
    assert status == 0
    assert "code: engine_failed" in output
    assert "attempts: 2" in output
    assert "owned" not in output
    output = moodq("failed", "show", "culprit", "--texts")[1]
    assert "\\x1b]0;owned\\x07 \\u202egnp.exe" in output
    assert not {"\x1b", "\x07", "\u202e"} & set(output)
    as_json = moodq("failed", "show", "culprit", "--texts", "--json")[1]
    assert not {"\x1b", "\x07", "\u202e"} & set(as_json)
    assert json.loads(as_json)["texts"] == {"culprit": EVIL}
    status, _, errors = moodq("failed", "show", "no\x1bsuch")
    assert status == 3
    assert "no_such_job" in errors
    assert "\x1b" not in errors


@pytest.mark.usefixtures("two_failed")
def test_retry_runs_it_again_with_all_attempts_and_a_waiter_gets_the_new_outcome(
    moodq: Moodq, client: Client, connection: Any
) -> None:
    job = Job.fetch("culprit", connection=connection, serializer=JSONSerializer)
    mended = {"v": 1, "items": [{"id": "culprit", "text": "mended", "tasks": ["sentiment"]}]}
    data = zlib.compress(json.dumps(["moodq.run", None, [mended], {}]).encode())
    connection.hset(job.key, "data", data)
    assert moodq("failed", "retry", "culprit", "--json")[:2] == (0, '{"retried": 1}\n')
    result = next(client.wait(["culprit"], WAIT_S))
    assert (result.status, result.attempt) == ("done", 1)
    assert moodq("failed", "retry", "culprit")[0] == 3
    assert moodq("failed", "retry")[0] == 2
    assert moodq("failed", "retry", "culprit", "--all")[0] == 2
    assert moodq("failed", "retry", "--all", "--queue", "bulk")[:2] == (0, "retried: 0\n")


@pytest.mark.usefixtures("two_failed")
def test_drop_deletes_what_is_meant_and_nothing_else(moodq: Moodq, connection: Any) -> None:
    assert moodq("failed", "drop", "--all", "--code", "empty_text")[:2] == (0, "dropped: 1\n")
    assert not connection.exists("rq:job:blank")
    assert connection.zrange("rq:failed:bulk", 0, -1) == [b"culprit"]
    assert moodq("failed", "drop", "nobody")[0] == 3


@pytest.mark.usefixtures("two_failed")
def test_rqs_own_commands_see_and_requeue_the_culprit(
    redis_url: str, tmp_path: Path, client: Client, connection: Any
) -> None:
    rq = "from rq.cli import main; main()"
    status, output, errors = run(redis_url, tmp_path, rq, "info", "--url", redis_url, "--raw")
    assert status == 0, errors
    assert "bulk" in output
    client._redis.delete("moodq:result:culprit", "moodq:events:culprit")
    arguments = ["--url", redis_url, "--queue", "bulk", "-S", "rq.serializers.JSONSerializer", "culprit"]
    status, output, errors = run(redis_url, tmp_path, rq, "requeue", *arguments)
    assert status == 0, errors
    assert "Unable" not in output
    result = next(client.wait(["culprit"], WAIT_S))
    assert (result.status, result.attempt) == ("failed", 1)
    for _ in range(200):
        registry = FailedJobRegistry("bulk", connection=connection)
        if registry.get_job_ids(cleanup=False) == ["culprit"]:
            return
        connection.blpop("never", timeout=0.05)
    raise AssertionError("not back in the failed registry")


def test_a_job_that_is_not_of_moodq_is_listed_as_unknown_and_a_bomb_is_not_inflated(
    moodq: Moodq, connection: Any
) -> None:
    bomb = zlib.compress(b"[" * 100_000_000)
    for id, data in [("bomb", bomb), ("stranger", b"\x80\x04K\x01."), ("empty", b"")]:
        connection.hset(f"rq:job:{id}", mapping={"status": "failed", "data": data, "origin": "bulk"})
        connection.zadd("rq:failed:bulk", {id: 9_999_999_999})
    connection.zadd("rq:failed:bulk", {"expired": 9_999_999_999})
    connection.sadd("rq:queues", "rq:queue:bulk")
    status, output, errors = moodq("failed", "list", "--json")
    assert (status, errors) == (0, "")
    rows = [json.loads(line) for line in output.splitlines()]
    assert {(row["id"], row["code"], tuple(row["items"])) for row in rows} == {
        ("bomb", "unknown", ()),
        ("stranger", "unknown", ()),
        ("empty", "unknown", ()),
    }
