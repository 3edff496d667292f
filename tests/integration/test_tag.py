"""``moodq tag`` as a process against real servers and a real worker process, killed and resumed."""

from __future__ import annotations

import csv
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

MAIN = "from moodq_config.cli import main; main()"
LINES = 4_000


def start(
    redis_url: str, home: Path, *args: str, stdin: Any = None, **settings: str
) -> subprocess.Popen[bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, "tag", *args],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=home,
        env={**clean, "MOODQ_REDIS_URL": redis_url, "PYTHONUTF8": "1", **settings},
    )


def moodq_tag(redis_url: str, home: Path, *args: str, stdin: bytes = b"") -> tuple[int, str, str]:
    process = start(redis_url, home, *args, stdin=subprocess.PIPE)
    output, errors = process.communicate(stdin, timeout=120)
    return process.returncode, output.decode(), errors.decode()


def records(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def some_lines(count: int = LINES) -> str:
    words = ["a bad day", "all is well", "很差", "太好了", "so so"]
    return "".join(f"{words[number % 5]} {number}\n" for number in range(count))


@pytest.mark.usefixtures("fake_worker")
def test_every_line_of_standard_input_gets_a_record_in_order(redis_url: str, tmp_path: Path) -> None:
    code, output, _ = moodq_tag(redis_url, tmp_path, "-", stdin=some_lines(300).encode())
    found = [json.loads(line) for line in output.splitlines()]
    assert code == 0
    assert [row["line"] for row in found] == list(range(1, 301))
    assert found[0]["results"]["sentiment"]["label"] == "negative"
    assert found[1]["text"] == "all is well 1"


@pytest.mark.usefixtures("fake_worker")
def test_a_table_keeps_its_columns_and_bad_rows_go_to_the_rejects(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text(
        "stars,review\n5,fine\n1,\n2,a bad one\n3," + "x" * 9_000 + "\n", "utf-8"
    )
    code, _, errors = moodq_tag(
        redis_url, tmp_path, "reviews.csv", "--text-column", "review", "--columns", "stars",
        "-o", "out.jsonl", "--rejects", "bad.jsonl",
    )  # fmt: skip
    assert code == 3, errors
    assert [(row["line"], row["columns"]) for row in records(tmp_path / "out.jsonl")] == [
        (2, {"stars": "5"}), (4, {"stars": "2"}),
    ]  # fmt: skip
    assert [(row["line"], row["error"]["code"]) for row in records(tmp_path / "bad.jsonl")] == [
        (3, "empty_text"), (5, "text_too_long"),
    ]  # fmt: skip


@pytest.mark.usefixtures("fake_worker")
@pytest.mark.parametrize("order", [[], ["--unordered"]], ids=["ordered", "unordered"])
def test_a_run_killed_again_and_again_and_resumed_leaves_what_an_unbroken_one_does(
    redis_url: str, tmp_path: Path, order: list[str]
) -> None:
    (tmp_path / "in.log").write_text(some_lines(), "utf-8")
    assert moodq_tag(redis_url, tmp_path, "in.log", "-o", "whole.jsonl", *order)[0] == 0
    out, mark = tmp_path / "out.jsonl", tmp_path / "out.jsonl.checkpoint"
    pause = random.Random(7)
    resume: list[str] = []
    for _ in range(4):
        process = start(redis_url, tmp_path, "in.log", "-o", "out.jsonl", *order, *resume)
        deadline = time.monotonic() + 60
        while not mark.exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(pause.uniform(0.0, 0.8))
        process.kill()
        process.communicate()
        resume = ["--resume"]
        if not mark.exists():
            break  # it was faster than the kill
        with out.open("ab") as torn:
            torn.write(b'{"line": 99999, "te')
    if mark.exists():
        code, _, errors = moodq_tag(redis_url, tmp_path, "in.log", "-o", "out.jsonl", *order, "--resume")
        assert code == 0, errors
    assert not mark.exists()
    found, whole = (
        out.read_text("utf-8").splitlines(),
        (tmp_path / "whole.jsonl").read_text("utf-8").splitlines(),
    )
    assert (sorted(found) == sorted(whole)) if order else (found == whole)


@pytest.mark.usefixtures("fake_worker")
def test_ctrl_c_leaves_a_file_that_can_be_gone_on_with(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "in.log").write_text(some_lines(20_000), "utf-8")
    process = start(redis_url, tmp_path, "in.log", "-o", "out.jsonl")
    out = tmp_path / "out.jsonl"
    deadline = time.monotonic() + 60
    while not (out.exists() and out.stat().st_size):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(2)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"--resume" in errors
    assert records(out)
    code, _, told = moodq_tag(redis_url, tmp_path, "in.log", "-o", "out.jsonl", "--resume")
    assert code == 0, told
    assert [row["line"] for row in records(out)] == list(range(1, 20_001))


@pytest.mark.usefixtures("fake_worker")
def test_redis_holds_no_result_of_a_finished_run(redis_url: str, tmp_path: Path, connection: Redis) -> None:
    code, output, _ = moodq_tag(redis_url, tmp_path, "-", stdin=some_lines(1_500).encode())
    assert (code, len(output.splitlines())) == (0, 1_500)
    assert not list(connection.scan_iter("moodq:result:*"))
    assert not list(connection.scan_iter("moodq:events:*"))


@pytest.mark.usefixtures("fake_worker")
def test_equal_texts_are_sent_once_and_a_sample_is_the_same_again(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "in.log").write_text("a bad day\nfine\n" * 2_000, "utf-8")
    code, output, _ = moodq_tag(redis_url, tmp_path, "in.log", "--dedupe")
    found = [json.loads(line) for line in output.splitlines()]
    assert code == 0
    assert [row["line"] for row in found] == list(range(1, 4_001))
    assert {row["results"]["sentiment"]["label"] for row in found[::2]} == {"negative"}
    first = moodq_tag(redis_url, tmp_path, "in.log", "--sample", "0.1")[1]
    assert first == moodq_tag(redis_url, tmp_path, "in.log", "--sample", "0.1")[1]
    assert 300 < len(first.splitlines()) < 500


@pytest.mark.usefixtures("fake_worker")
def test_resuming_with_other_options_or_no_checkpoint_is_refused(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "in.log").write_text("fine\n", "utf-8")
    code, _, errors = moodq_tag(redis_url, tmp_path, "in.log", "-o", "out.jsonl", "--resume")
    assert (code, "leave --resume out" in errors) == (2, True)
    (tmp_path / "out.jsonl").write_text("", "utf-8")
    (tmp_path / "out.jsonl.checkpoint").write_text('{"terms": {"tasks": ["other"]}}', "utf-8")
    code, _, errors = moodq_tag(redis_url, tmp_path, "in.log", "-o", "out.jsonl", "--resume")
    assert (code, "tasks: then ['other']" in errors) == (2, True)


@pytest.mark.usefixtures("fake_worker")
def test_an_unfinished_run_is_not_overwritten_nor_is_an_input(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "in.log").write_text("fine\n", "utf-8")
    (tmp_path / "out.jsonl").write_text("work of hours\n", "utf-8")
    (tmp_path / "out.jsonl.checkpoint").write_text("{}", "utf-8")
    code, _, errors = moodq_tag(redis_url, tmp_path, "in.log", "-o", "out.jsonl")
    assert (code, "--resume" in errors) == (2, True)
    assert (tmp_path / "out.jsonl").read_text("utf-8") == "work of hours\n"
    code, _, errors = moodq_tag(redis_url, tmp_path, "in.log", "-o", "./in.log")
    assert (code, "both read and written" in errors) == (2, True)
    assert (tmp_path / "in.log").read_text("utf-8") == "fine\n"


@pytest.mark.usefixtures("fake_worker")
def test_report_and_templates_of_a_resumed_run_are_of_the_whole_file(redis_url: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "in.log").write_text(some_lines(30_000) + "\n" + "x" * 9_000, "utf-8")
    pages = ("--report", "r.html", "--templates", "t.csv", "--rejects", "bad.jsonl")
    process = start(redis_url, tmp_path, "in.log", "-o", "out.jsonl", *pages)
    mark = tmp_path / "out.jsonl.checkpoint"
    deadline = time.monotonic() + 60
    while not (mark.exists() and json.loads(mark.read_text("utf-8"))["rows"]):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, b"--resume" in errors) == (130, True)
    assert not (tmp_path / "r.html").exists()
    code, _, told = moodq_tag(redis_url, tmp_path, "in.log", "-o", "out.jsonl", *pages, "--resume")
    assert code == 3, told
    page = (tmp_path / "r.html").read_text("utf-8")
    assert "30,001 rows" in page
    assert "text_too_long" in page
    with (tmp_path / "t.csv").open(encoding="utf-8") as table:
        rows = {row["template"]: int(row["rows"]) for row in csv.DictReader(table)}
    assert rows == dict.fromkeys(
        ("a bad day <*>", "all is well <*>", "很差 <*>", "太好了 <*>", "so so <*>"), 6_000
    )


@pytest.mark.usefixtures("fake_worker")
def test_requests_of_a_batch_file_are_answered_in_kind(redis_url: str, tmp_path: Path) -> None:
    def request(id: str, **body: Any) -> str:
        return json.dumps({"custom_id": id, "method": "POST", "url": "/v1/chat/completions", "body": body})

    good = request("a", messages=[{"role": "user", "content": "a bad day"}], logprobs=True)
    lines = [good, request("b"), request("c", messages=[{"role": "user", "content": " "}])]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), "utf-8")
    code, output, _ = moodq_tag(redis_url, tmp_path, "in.jsonl", "--format", "openai-batch")
    found = [json.loads(line) for line in output.splitlines()]
    assert code == 3
    assert [(row["custom_id"], row["response"]["status_code"]) for row in found] == [
        ("a", 200), ("line-2", 400), ("c", 400),
    ]  # fmt: skip
    assert found[0]["response"]["body"]["choices"][0]["message"]["content"] == "negative"
    assert found[2]["error"]["code"] == "empty_text"


@pytest.mark.usefixtures("fake_worker")
def test_a_kept_column_that_is_no_utf8_leaves_a_file_of_json(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_bytes(b"id,text\n\xff,fine\n")
    (tmp_path / "in.jsonl").write_bytes(b'{"id": "\\ud800", "text": "fine"}\n{"id": NaN, "text": "x"}\n')
    for name in ("in.csv", "in.jsonl"):
        moodq_tag(redis_url, tmp_path, name, "--columns", "id", "-o", "out.jsonl")
        assert records(tmp_path / "out.jsonl")[0]["columns"]["id"] in ("\udcff", "\ud800")


def test_without_a_worker_it_says_so_at_once_and_how_to_start_one(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "in.log").write_text("fine\n", "utf-8")
    began = time.monotonic()
    code, _, errors = moodq_tag(redis_url, tmp_path, "in.log")
    assert code == 4
    assert "moodq worker" in errors
    assert "--local" in errors
    assert time.monotonic() - began < 15


def test_local_starts_a_worker_for_the_run_and_stops_it(redis_url: str, tmp_path: Path) -> None:
    (tmp_path / "in.log").write_text(some_lines(50), "utf-8")
    process = start(
        redis_url, tmp_path, "in.log", "--local",
        MOODQ_ENGINE="fake", MOODQ_METRICS_PORT="0", MOODQ_DATA_DIR=str(tmp_path / "data"),
    )  # fmt: skip
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    assert len(output.splitlines()) == 50
    assert moodq_tag(redis_url, tmp_path, "in.log")[0] == 4  # nobody works any more


def test_what_local_started_ends_with_a_run_that_is_killed(
    redis_url: str, connection: Redis, tmp_path: Path
) -> None:
    (tmp_path / "in.log").write_text("[[sleep 3]]\n", "utf-8")
    process = start(
        redis_url, tmp_path, "in.log", "--local", "-o", "out.jsonl",
        MOODQ_ENGINE="fake", MOODQ_METRICS_PORT="0", MOODQ_DATA_DIR=str(tmp_path / "data"),
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not connection.zcard("rq:wip:bulk"):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.kill()
    process.communicate()
    while connection.smembers("rq:workers"):
        assert time.monotonic() < deadline, "the worker lives on"
        time.sleep(0.1)
