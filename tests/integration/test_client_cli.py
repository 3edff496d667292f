"""``moodq send``, ``result`` and ``stats`` as processes against real servers and a real worker process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

MAIN = "from moodq_config.cli import main; main()"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


def moodq(
    redis_url: str, home: Path, *args: str | bytes, stdin: bytes = b"", **settings: str
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *args],
        input=stdin,
        capture_output=True,
        cwd=home,
        env={**clean, "MOODQ_REDIS_URL": redis_url, "COLUMNS": "160", "PYTHONUTF8": "1", **settings},
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


@pytest.mark.usefixtures("fake_worker")
def test_a_person_gets_a_table_with_label_probability_and_reply(redis_url: str, home: Path) -> None:
    code, output, errors = moodq(redis_url, home, "send", "今天太棒了！", "--tasks", "sentiment,reply")
    assert (code, errors) == (0, "")
    assert "positive 0.900" in output
    assert "echo: 今天太棒了！" in output


@pytest.mark.usefixtures("fake_worker")
def test_a_bad_line_is_reported_in_its_place_and_the_others_are_done(redis_url: str, home: Path) -> None:
    stdin = "好\n\n".encode() + b"bad \xff line\n" + b"x" * 9_000 + b"\n\xef\xbb\xbf  \na terrible day"
    code, output, _ = moodq(redis_url, home, "send", "--json", stdin=stdin)
    found = lines(output)
    assert code == 3
    assert [row["status"] for row in found] == ["done", "failed", "failed", "done", "done"]
    assert [row["error"]["code"] for row in found[1:3]] == ["invalid_utf8", "text_too_long"]
    assert found[1]["id"] == "line-3"
    assert "line 3" in found[1]["error"]["message"]
    assert found[4]["results"]["sentiment"]["label"] == "negative"


@pytest.mark.usefixtures("fake_worker")
def test_a_thousand_lines_come_back_in_their_order(redis_url: str, home: Path) -> None:
    texts = [f"line {n} {'bad' if n % 3 else 'fine'}" for n in range(1_000)]
    stdin = "\n".join(texts).encode()
    code, output, _ = moodq(redis_url, home, "send", "-", "--queue", "bulk", "--json", stdin=stdin)
    labels = [row["results"]["sentiment"]["label"] for row in lines(output)]
    assert code == 0
    assert labels == ["negative" if n % 3 else "positive" for n in range(1_000)]


@pytest.mark.usefixtures("fake_worker")
def test_no_control_character_of_a_text_reaches_the_terminal(redis_url: str, home: Path) -> None:
    hostile = "x\x1b]0;owned\x07\x9b31m"
    for flags in ([], ["--json"]):
        code, output, errors = moodq(redis_url, home, "send", hostile, "--tasks", "reply", *flags)
        assert code == 0
        assert all(char == "\n" or char.isprintable() for char in output + errors)


@pytest.mark.usefixtures("fake_worker")
def test_an_item_that_fails_in_the_worker_makes_exit_code_3(redis_url: str, home: Path) -> None:
    code, output, _ = moodq(redis_url, home, "send", "[[raise]]", "fine", "--json", MOODQ_MAX_ATTEMPTS="1")
    assert code == 3
    assert [row["status"] for row in lines(output)] == ["failed", "done"]


def test_without_waiting_the_ids_are_printed_and_can_be_asked_for(
    redis_url: str, home: Path, connection: Redis
) -> None:
    code, output, errors = moodq(redis_url, home, "send", "a", "", "b", "--no-wait")
    ids = output.split()
    assert code == 3
    assert len(ids) == 2
    assert "text-2: empty_text" in errors
    assert connection.lrange("rq:queue:interactive", 0, -1) == [id.encode() for id in ids]
    code, _, errors = moodq(redis_url, home, "result", ids[0])
    assert code == 3
    assert "no_such_result" in errors
    code, _, errors = moodq(redis_url, home, "result", ids[0], "--wait", "0.2")
    assert code == 6


@pytest.mark.usefixtures("fake_worker")
def test_a_result_can_be_asked_for_by_its_id(redis_url: str, home: Path) -> None:
    assert moodq(redis_url, home, "send", "a", "--id", "order-1", "--no-wait")[1] == "order-1\n"
    code, output, _ = moodq(redis_url, home, "result", "order-1", "--wait", "60", "--json")
    assert code == 0
    assert lines(output)[0]["id"] == "order-1"
    assert "positive" in moodq(redis_url, home, "result", "order-1")[1]


def test_a_timeout_prints_what_is_there_and_ends_with_code_6(redis_url: str, home: Path) -> None:
    code, output, errors = moodq(redis_url, home, "send", "hello", "--timeout", "0.3")
    assert code == 6
    assert "no result yet" in output
    assert "wait_timeout" in errors
    assert "`moodq worker`" in errors


def test_a_full_queue_and_an_absent_redis_end_with_code_4(redis_url: str, home: Path) -> None:
    code, _, errors = moodq(redis_url, home, "send", "a", "b", "--no-wait", MOODQ_MAX_QUEUE_LENGTH="1")
    assert code == 4
    assert "queue_full" in errors
    waiting = ("--no-wait", "--on-full", "wait", "--full-timeout", "0.3")
    code, _, errors = moodq(redis_url, home, "send", "c", *waiting, MOODQ_MAX_QUEUE_LENGTH="1")
    assert code == 4
    assert "queue_full" in errors
    code, _, errors = moodq(redis_url, home, "send", *"defgh", "--no-wait", MOODQ_MAX_ITEMS_PER_S="1")
    assert code == 4
    assert "rate_limited" in errors
    code, _, errors = moodq("redis://:hunter2@127.0.0.1:1", home, "send", "a")
    assert code == 4
    assert "redis_unreachable" in errors
    assert "hunter2" not in errors


@pytest.mark.parametrize(
    "args",
    [
        ["send", "a", "b", "--id", "one"],
        ["send", "a", "--tasks", ","],
        ["send", "a", "--timeout", "0"],
        ["send", "a", "--queue", "nowhere"],
    ],
)
def test_wrong_usage_ends_with_code_2(redis_url: str, home: Path, args: list[str]) -> None:
    code, output, errors = moodq(redis_url, home, *args)
    assert code == 2, errors
    assert output == ""


def test_empty_standard_input_is_no_mistake_and_sends_nothing(
    redis_url: str, home: Path, connection: Redis
) -> None:
    code, output, _ = moodq(redis_url, home, "send", stdin=b"\n\n")
    assert (code, output) == (0, "")
    assert connection.dbsize() == 0


def test_an_argument_that_is_not_utf8_is_refused_with_its_code(redis_url: str, home: Path) -> None:
    code, output, _ = moodq(redis_url, home, "send", b"bad \xff text", "--json")
    assert code == 3
    assert lines(output)[0]["error"]["code"] == "invalid_utf8"


def test_stats_count_jobs_and_living_workers_without_touching_them(
    redis_url: str, home: Path, connection: Redis
) -> None:
    moodq(redis_url, home, "send", "a", "b", "--no-wait")
    connection.zadd("rq:wip:interactive", {"old:execution": 1})
    connection.zadd("rq:failed:bulk", {"x": 1, "y": 2})
    connection.sadd("rq:workers", "rq:worker:w1", "rq:worker:gone")
    connection.hset("rq:worker:w1", "state", "idle")
    code, output, _ = moodq(redis_url, home, "stats", "--json")
    found = json.loads(output)
    assert code == 0
    assert found["workers"] == ["w1"]
    assert found["queues"]["interactive"]["length"] == 2
    assert found["queues"]["interactive"]["started"] == 1
    assert found["queues"]["interactive"]["oldest_age_s"] >= 0
    assert found["queues"]["bulk"] == {
        "length": 0, "oldest_age_s": None, "started": 0, "abandoned": 0, "finished": 0, "failed": 2,
        "deferred": 0, "scheduled": 0, "canceled": 0, "workers": 0,
    }  # fmt: skip
    assert connection.zcard("rq:wip:interactive") == 1
    assert connection.zcard("rq:failed:bulk") == 2
    _, table, _ = moodq(redis_url, home, "stats")
    assert "workers: 1 alive: w1" in table
