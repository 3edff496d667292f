"""A label pinned to a template: ``moodq templates`` as a process, heeded by real workers."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from moodq_config.errors import BadInput
from moodq_config.names import PINS_KEY, PINS_REVISION_KEY
from moodq_config.tasks import load_tasks
from moodq_config.templates import MAX_PINS
from moodq_producer import Client, Result
from moodq_producer.pins import Pin, make_pin, store_pins, stored_pins

MAIN = "from moodq_config.cli import main; main()"


def moodq(redis_url: str, home: Path, *args: str) -> tuple[int, str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, *args],
        capture_output=True,
        cwd=home,
        env={**clean, "MOODQ_REDIS_URL": redis_url, "COLUMNS": "160", "PYTHONUTF8": "1"},
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def label(redis_url: str, text: str, tasks: str = "sentiment") -> Result:
    with Client(redis_url) as client:
        return client.submit(text, tasks.split(",")).wait(30)


def shown(result: Result) -> tuple[str, float, str | None]:
    found: Any = result.results["sentiment"]
    return found.label, found.probability, result.cached


@pytest.mark.usefixtures("fake_worker")
def test_a_pinned_label_is_heeded_at_once_by_a_worker_that_runs_and_no_more_when_unpinned(
    redis_url: str, tmp_path: Path
) -> None:
    assert shown(label(redis_url, "disk 7 is full"))[0] == "positive"
    assert moodq(redis_url, tmp_path, "templates", "pin", "negative", "disk 3 is full")[0] == 0
    assert shown(label(redis_url, "  disk 99 is full ")) == ("negative", 1.0, "pinned")
    assert shown(label(redis_url, "disk 7 is full")) == ("negative", 1.0, "pinned")
    assert shown(label(redis_url, "disk 7 is half full"))[::2] == ("positive", None)
    code, output, _ = moodq(redis_url, tmp_path, "templates", "list")
    assert code == 0
    assert "disk <*> is full" in output
    assert moodq(redis_url, tmp_path, "templates", "unpin", "disk <*> is full")[0] == 0
    assert shown(label(redis_url, "disk 7 is full")) == ("positive", 0.9, "exact")
    assert moodq(redis_url, tmp_path, "templates", "unpin", "disk 7 is full")[0] == 3


@pytest.mark.usefixtures("fake_worker")
def test_what_is_computed_beside_a_pinned_label_is_not_told_as_known(redis_url: str, tmp_path: Path) -> None:
    assert moodq(redis_url, tmp_path, "templates", "pin", "negative", "disk 3 is full")[0] == 0
    result = label(redis_url, "disk 7 is full", "sentiment,reply")
    assert shown(result) == ("negative", 1.0, None)
    reply: Any = result.results["reply"]
    assert reply.text == "echo: disk 7 is full"


@pytest.mark.usefixtures("fake_worker")
def test_templates_of_a_tagged_file_are_reviewed_in_a_table_and_pinned_from_it(
    redis_url: str, tmp_path: Path
) -> None:
    lines = [f"disk {number} is full\n" for number in range(30)]
    lines += [f"login of user{number} went bad\n" for number in range(10)]
    (tmp_path / "in.log").write_text("".join(lines), "utf-8")
    code, _, errors = moodq(
        redis_url, tmp_path, "tag", "in.log", "-o", "tagged.jsonl", "--templates", "now.csv"
    )
    assert code == 0, errors
    assert moodq(redis_url, tmp_path, "templates", "list", "tagged.jsonl", "-o", "t.csv")[0] == 0
    assert (tmp_path / "t.csv").read_bytes() == (tmp_path / "now.csv").read_bytes()
    code, output, _ = moodq(redis_url, tmp_path, "templates", "list", "tagged.jsonl", "--limit", "1")
    assert "disk <*> is full" in output
    assert "user<*>" not in output
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["template"], row["rows"], row["label"], row["share"]) for row in rows] == [
        ("disk <*> is full", "30", "positive", "0.7500"),
        ("login of user<*> went bad", "10", "negative", "0.2500"),
    ]
    rows[0]["pin"] = "negative"
    with (tmp_path / "t.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    code, output, errors = moodq(redis_url, tmp_path, "templates", "pin", "--from", "t.csv")
    assert (code, "pinned: 1" in output) == (0, True), errors
    assert moodq(redis_url, tmp_path, "tag", "in.log", "-o", "again.jsonl")[0] == 0
    again = [json.loads(line) for line in (tmp_path / "again.jsonl").read_text("utf-8").splitlines()]
    assert {row["results"]["sentiment"]["label"] for row in again} == {"negative"}


def test_no_task_or_label_that_there_is_not_is_pinned(redis_url: str, tmp_path: Path) -> None:
    code, _, errors = moodq(redis_url, tmp_path, "templates", "pin", "sad", "disk 3 is full")
    assert (code, "positive, negative" in errors) == (3, True)
    code, _, errors = moodq(redis_url, tmp_path, "templates", "pin", "x", "y", "--task", "reply")
    assert (code, "unknown_task" in errors) == (3, True)
    (tmp_path / "t.csv").write_text("a,b\n1,2\n", "utf-8")
    code, _, errors = moodq(redis_url, tmp_path, "templates", "pin", "--from", "t.csv")
    assert (code, "moodq templates list" in errors) == (2, True)


def test_hostile_pins_neither_stop_a_worker_nor_are_heeded(
    redis_url: str, connection: Redis, start_fake_worker: Callable[..., Any]
) -> None:
    connection.hset(
        PINS_KEY,
        mapping={
            b"sentiment \xff": b"negative", b"nothing": b"", b"reply x": b"negative",
            b"sentiment fine": b"sad", b"sentiment well": b"negative",
        },
    )  # fmt: skip
    connection.incr(PINS_REVISION_KEY)
    start_fake_worker()
    assert shown(label(redis_url, "fine"))[::2] == ("positive", None)
    assert shown(label(redis_url, "well")) == ("negative", 1.0, "pinned")


def test_more_pins_than_a_worker_holds_are_refused(connection: Redis) -> None:
    tasks = load_tasks()
    store_pins(connection, [Pin("sentiment", f"kind {'x' * n}", "negative") for n in range(1_200)])
    assert len(stored_pins(connection)) == 1_200
    many = [Pin("sentiment", f"{n}", "negative") for n in range(MAX_PINS)]
    with pytest.raises(BadInput, match="10000"):
        store_pins(connection, many)
    with pytest.raises(BadInput, match="2000"):
        make_pin(tasks, "sentiment", "x" * 2_001, "negative")
