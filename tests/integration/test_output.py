"""What processes log and print when texts, ids and names are hostile: nothing forged, secret or quoted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from moodq_producer import Client

StartFakeWorker = Callable[..., Any]
Push = Callable[..., Any]

#: A forged record, a terminal's title, colours, a C1 control sequence, reversed reading order.
HOSTILE = "x\n2026-01-01 00:00:00,000 CRITICAL moodq: forged\r\x1b]0;owned\x07\x1b[31m\x9b2J\u202e"
MARK = "MARKED-BY-A-CUSTOMER"


def assert_harmless(output: bytes) -> None:
    text = output.decode("utf-8")
    assert text.replace("\n", "").isprintable(), ascii(text)
    assert not any(line.startswith("2026-01-01") for line in text.splitlines())


def moodq(redis_url: str, folder: Path, *args: str) -> tuple[int, bytes, bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
    done = subprocess.run(
        [sys.executable, "-m", "moodq_config.cli", *args],
        capture_output=True,
        cwd=folder,
        env={**clean, "MOODQ_REDIS_URL": redis_url, "COLUMNS": "200", "PYTHONUTF8": "1"},
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def push_raw(connection: Any, id: str, items: Iterable[dict[str, object]], **fields: str) -> None:
    """A job as anyone who may write to Redis can push it."""
    data = json.dumps(["moodq.run", None, [{"v": 1, "items": list(items)}], {}])
    connection.hset(
        f"rq:job:{id}", mapping={"data": data, "origin": "interactive", "status": "queued", **fields}
    )
    connection.rpush("rq:queue:interactive", id)


def wait_for_key(connection: Any, key: str) -> None:
    deadline = time.monotonic() + 30
    while not connection.exists(key):
        assert time.monotonic() < deadline, f"no {key}"
        time.sleep(0.02)


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_workers_log_cannot_be_forged_by_jobs_ids_fields_or_commands(
    start_fake_worker: StartFakeWorker, connection: Any, push: Push, form: str
) -> None:
    worker = start_fake_worker(
        MOODQ_LOG_LEVEL="DEBUG", MOODQ_MAX_ATTEMPTS="1", MOODQ_LOG_FORMAT=form, MOODQ_LOG_JOBS="all"
    )
    push_raw(connection, HOSTILE, [{"text": "fine", "tasks": ["sentiment"]}])
    push_raw(connection, "named", [{"id": HOSTILE, "text": HOSTILE, "tasks": ["sentiment"]}])
    push_raw(connection, "tasked", [{"id": "tasked", "text": "fine", "tasks": [HOSTILE]}])
    push_raw(connection, "raised", [{"id": "raised", "text": "[[raise]]" + HOSTILE, "tasks": ["sentiment"]}])
    push_raw(connection, "dated", [{"id": "dated", "text": "x", "tasks": ["sentiment"]}], created_at=HOSTILE)
    push("odd", function=HOSTILE)
    command = json.dumps({"command": HOSTILE})
    connection.publish(f"rq:pubsub:{worker.name}", command)
    connection.publish(f"rq:pubsub:{worker.name}", HOSTILE)
    for id in ("named", "tasked", "raised", "dated", "odd"):
        wait_for_key(connection, f"moodq:result:{id}")
    assert worker.stop() == 0
    output = worker.log.read_bytes()
    assert_harmless(output)
    if form == "json":
        ended = [line for line in map(json.loads, output.splitlines()) if line.get("event.action") == "job"]
        assert len(ended) == 6
    assert b"RQ command" in output  # they were seen, and told
    assert b"unreadable RQ command" in output


def test_texts_and_metadata_are_in_the_log_only_when_asked_for(
    start_fake_worker: StartFakeWorker, redis_url: str
) -> None:
    quiet = start_fake_worker(MOODQ_LOG_LEVEL="DEBUG", MOODQ_MAX_ATTEMPTS="1")
    with Client(redis_url) as client:
        for text in (f"a fine day {MARK}", f"[[raise]] {MARK}", f"[[nan]] {MARK}"):
            client.submit(text, metadata={"who": MARK}).wait(30)
    assert quiet.stop() == 0
    assert MARK not in quiet.log.read_text()
    assert "RuntimeError" in quiet.log.read_text()

    loud = start_fake_worker(MOODQ_LOG_TEXTS="true", MOODQ_MAX_ATTEMPTS="1")
    with Client(redis_url) as client:
        client.submit(f"another day {MARK}{HOSTILE}", metadata={"who": MARK}).wait(30)
    assert loud.stop() == 0
    assert loud.log.read_text().count(MARK) == 2
    assert_harmless(loud.log.read_bytes())


def test_the_password_of_redis_is_in_no_log_and_no_message(
    start_fake_worker: StartFakeWorker, connection: Any, redis_url: str, tmp_path: Path
) -> None:
    acl: list[object] = ["on", ">s3cret-pass/word", "~*", "&*", "+@all"]
    connection.execute_command("ACL", "SETUSER", "guest", *acl)
    try:
        url = redis_url.replace("redis://", "redis://guest:s3cret-pass%2Fword@")
        worker = start_fake_worker(MOODQ_REDIS_URL=url, MOODQ_LOG_LEVEL="DEBUG")
        deadline = time.monotonic() + 30
        while b"ready: worker" not in worker.log.read_bytes():  # one that only starts would end
            assert time.monotonic() < deadline, worker.log.read_text()
            time.sleep(0.02)
        connection.execute_command("ACL", "SETUSER", "guest", "resetpass", ">another")
        connection.execute_command("CLIENT", "KILL", "USER", "guest")
        while b"no heartbeat is sent" not in worker.log.read_bytes():
            assert time.monotonic() < deadline, worker.log.read_text()
            time.sleep(0.05)
        code, output, errors = moodq(url, tmp_path, "send", "hello")
        assert code == 4
        assert b"guest:***@" in errors
        shown = moodq(url, tmp_path, "config")[1]
        for seen in (output, errors, shown, worker.log.read_bytes()):
            assert b"s3cret" not in seen
        broken = moodq("redis://:s3cret-pass/word@host:6379", tmp_path, "stats")
        assert broken[0] == 2
        assert b"s3cret" not in broken[1] + broken[2]
        assert b"%2F" in broken[2]
        connection.execute_command("ACL", "SETUSER", "guest", "resetpass", *acl)
        assert worker.stop() == 0
    finally:
        connection.execute_command("ACL", "DELUSER", "guest")


@pytest.mark.parametrize("flags", [(), ("--json",)])
def test_names_and_results_from_redis_reach_a_screen_as_escapes(
    connection: Any, redis_url: str, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    connection.sadd("rq:queues", f"rq:queue:{HOSTILE}")
    connection.sadd("rq:workers", f"rq:worker:{HOSTILE}")
    connection.set(f"rq:worker:{HOSTILE}", "alive")
    scores = {"label": HOSTILE, "probability": 1.0, "scores": {HOSTILE: 1.0}}
    told = {"text": HOSTILE + "[/b][link=http://x]", "finish_reason": "stop", "tokens": 1}
    common = {"v": 1, "worker": HOSTILE, "attempt": 1, "finished_at": HOSTILE, "metadata": {HOSTILE: HOSTILE}}
    done = {"id": "a", "status": "done", "results": {HOSTILE: scores, "reply": told}, **common}
    failed = {"id": "b", "status": "failed", "error": {"code": HOSTILE, "message": HOSTILE}, **common}
    connection.set("moodq:result:a", json.dumps(done))
    connection.set("moodq:result:b", json.dumps(failed))
    for command, code in ((["stats"], 0), (["result", "a"], 0), (["result", "b"], 3)):
        ended, output, errors = moodq(redis_url, tmp_path, *command, *flags)
        assert ended == code, errors
        assert_harmless(output)
        assert_harmless(errors)
        assert b"owned" in output  # shown, as an escape
    for hostile in (
        ["result", HOSTILE],
        ["send", "x", "--queue", HOSTILE],
        ["send", "x", "--tasks", HOSTILE],
    ):
        ended, output, errors = moodq(redis_url, tmp_path, *hostile)
        assert ended in (2, 3)
        assert_harmless(output + errors)


def test_events_from_redis_reach_a_screen_as_escapes(connection: Any, redis_url: str, tmp_path: Path) -> None:
    done = {
        "id": "s",
        "status": "done",
        "results": {},
        "v": 1,
        "worker": "w",
        "attempt": 1,
        "finished_at": "",
    }
    scores = {"label": HOSTILE, "probability": 1.0, "scores": {}}
    connection.xadd("moodq:events:s", {"event": "label", "data": json.dumps({HOSTILE: scores})})
    connection.xadd(
        "moodq:events:s", {"event": "token", "data": json.dumps({"task": "t", "text": "\x1b[31m\u202e"})}
    )
    connection.xadd("moodq:events:s", {"event": "done", "data": json.dumps(done)})
    for flags in ([], ["--json"]):
        code, output, errors = moodq(redis_url, tmp_path, "send", "x", "--id", "s", "--stream", *flags)
        assert code == 0, errors
        assert_harmless(output)
