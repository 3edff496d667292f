"""Tasks edited under a running worker: used within a second, refused when broken, and no job is lost."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moodq_config.errors import BadInput, ConfigError
from moodq_config.names import result_key
from moodq_config.settings import load_settings
from moodq_config.tasks import load_tasks
from moodq_producer import Client, Ticket

Start = Callable[..., Any]
WAIT_S = 30.0

SPAM = """
[tasks.spam]
kind = "label"
labels = ["spam", "ham"]
prompt.zh = { system = "判断", words = { spam = "是", ham = "否" } }
prompt.en = { system = "Judge", words = { spam = "yes", ham = "no" } }
"""
NOTE = """
[tasks.note]
kind = "generate"
prompt.zh = { system = "回答" }
prompt.en = { system = "Answer" }
"""


def save(path: Path, text: str) -> None:
    """As editors do: a new file, put under the old one's name."""
    new = path.with_suffix(".new")
    new.write_text(text, "utf-8")
    os.replace(new, path)


@pytest.fixture
def tasks_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(SPAM, "utf-8")
    monkeypatch.setenv("MOODQ_TASKS_FILE", str(path))
    return path


def until_logged(worker: Any, words: str, within_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + within_s
    while words not in worker.log.read_text("utf-8"):
        assert time.monotonic() < deadline, worker.log.read_text("utf-8")
        time.sleep(0.02)


def test_a_task_added_to_the_file_is_used_by_a_running_client_and_worker_at_once(
    redis_url: str, tasks_file: Path, start_fake_worker: Start
) -> None:
    start_fake_worker(MOODQ_TASKS_FILE=str(tasks_file))
    with Client(redis_url) as client:
        with pytest.raises(BadInput, match="junk"):
            client.submit("buy now", ["junk"])
        saved = time.monotonic()
        save(tasks_file, SPAM + SPAM.replace("tasks.spam", "tasks.junk"))
        result = client.submit("buy now", ["junk", "spam"]).wait(timeout=WAIT_S)
        assert time.monotonic() - saved < 1.0
    assert result.error is None
    assert set(result.results) == {"junk", "spam"}


def test_results_carry_the_revision_of_their_task_which_an_edit_changes_and_the_cache_follows(
    redis_url: str, tasks_file: Path, start_fake_worker: Start
) -> None:
    worker = start_fake_worker(MOODQ_TASKS_FILE=str(tasks_file))
    with Client(redis_url) as client:
        first = client.submit("buy now", ["spam", "sentiment"]).wait(timeout=WAIT_S)
        before = load_tasks(tasks_file)
        assert first.revisions == {name: before.revision_of(name) for name in ("spam", "sentiment")}

        save(tasks_file, SPAM.replace('"spam", "ham"', '"ham", "spam"'))
        after = load_tasks(tasks_file)
        until_logged(worker, f"tasks changed: revision {after.revision}", within_s=1.0)
        second = client.submit("buy now", ["spam"]).wait(timeout=WAIT_S)
        assert second.results["spam"] != first.results["spam"]
        assert second.revisions == {"spam": after.revision_of("spam")}
        assert second.cached is None, "an answer by another definition is none"
        assert client.submit("buy now", ["sentiment"]).wait(timeout=WAIT_S).cached == "exact"


@pytest.mark.parametrize(
    ("good", "bad", "line", "says"),
    [
        ('"否"', '"是"', 5, "tasks.spam.prompt.zh.words must differ"),
        ('system = "Judge"', 'sytem = "Judge"', 6, "tasks.spam.prompt.en.system: is missing; add it"),
        ('"label"', '"lable"', 3, "tasks.spam.kind must be one of label, multilabel"),
        ('["spam", "ham"]', '["spam", "ham"', 5, ""),
    ],
)
def test_a_broken_file_is_refused_with_file_line_and_field_and_the_old_one_stays_in_force(
    redis_url: str, tasks_file: Path, start_fake_worker: Start, good: str, bad: str, line: int, says: str
) -> None:
    worker = start_fake_worker(MOODQ_TASKS_FILE=str(tasks_file))
    revision = load_tasks(tasks_file).revision_of("spam")
    assert good in SPAM
    save(tasks_file, SPAM.replace(good, bad))
    until_logged(worker, "tasks not changed", within_s=1.0)
    [told] = [line for line in worker.log.read_text("utf-8").splitlines() if "tasks not changed" in line]
    assert str(tasks_file) in told
    assert f"line {line}" in told
    assert says in told
    save(tasks_file, SPAM)
    until_logged(worker, "in order again", within_s=1.0)
    with Client(redis_url) as client:
        assert client.submit("fine", ["spam"]).wait(timeout=WAIT_S).revisions == {"spam": revision}


def test_a_client_whose_file_was_broken_since_says_so_and_goes_on_with_the_tasks_it_knows(
    redis_url: str, tasks_file: Path, start_fake_worker: Start
) -> None:
    start_fake_worker(MOODQ_TASKS_FILE=str(tasks_file))
    with Client(redis_url) as client:
        save(tasks_file, SPAM.replace('"label"', '"lable"'))
        with pytest.raises(ConfigError, match=r"line 3: tasks\.spam\.kind"):
            client.submit("fine", ["junk"])
        assert client.submit("fine", ["spam"]).wait(timeout=WAIT_S).error is None


def test_jobs_in_hand_are_finished_by_the_definitions_they_were_read_by(
    redis_url: str, connection: Any, tasks_file: Path, start_fake_worker: Start
) -> None:
    worker = start_fake_worker(MOODQ_TASKS_FILE=str(tasks_file), MOODQ_CACHE_TTL_S="0")
    save(tasks_file, SPAM + NOTE)
    with Client(redis_url) as client:
        writing = client.submit("[[words 20]] [[step 0.1]]", ["note"])
        time.sleep(0.3)  # it is being written
        waiting = list(client.submit_many(["[[sleep 0.5]] a", "b"], ["spam", "note"]))
        until_leased(connection, "bulk")
        before = load_tasks(tasks_file)
        save(tasks_file, SPAM.replace('"spam", "ham"', '"ham", "spam"'))  # and note is gone
        after = load_tasks(tasks_file)
        until_logged(worker, f"tasks changed: revision {after.revision}", within_s=1.0)
        new = client.submit("c", ["spam"]).wait(timeout=WAIT_S)
        assert new.revisions == {"spam": after.revision_of("spam")}
        assert connection.get(result_key(writing.id)) is None, "the test was to change it while it is written"
        for ticket in (writing, *waiting):
            result = ticket.wait(timeout=WAIT_S)
            assert result.error is None
            assert result.attempt == 1
            assert result.revisions == {name: before.revision_of(name) for name in result.results}


def until_leased(connection: Any, queue: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not connection.zcard(f"rq:wip:{queue}"):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_no_job_is_lost_while_the_file_is_saved_again_and_again_under_load(
    redis_url: str, tasks_file: Path, start_fake_worker: Start
) -> None:
    worker = start_fake_worker(MOODQ_TASKS_FILE=str(tasks_file))
    versions = [SPAM, SPAM.replace("Judge", "Decide"), SPAM.replace("kind", "knid"), ""]
    revisions = set()
    for text in versions[:2]:
        save(tasks_file, text)
        revisions.add(load_tasks(tasks_file).revision_of("spam"))
    done = threading.Event()

    def edit() -> None:
        number = 0
        while not done.wait(0.05 if number % 2 else 0.5):
            number += 1
            with tasks_file.open("w", encoding="utf-8") as file:  # in place, and in two halves
                text = versions[number % len(versions)]
                file.write(text[: len(text) // 2])
                file.flush()
                file.write(text[len(text) // 2 :])

    editor = threading.Thread(target=edit)
    with Client(load_settings(redis_url=redis_url)) as client:
        editor.start()
        try:
            tickets: list[Ticket] = []
            for round in range(40):
                tickets += client.submit_many([f"{round} {n}" for n in range(20)], ["spam"], chunk=5)
                time.sleep(0.05)
            results = [ticket.wait(timeout=WAIT_S) for ticket in tickets]
        finally:
            done.set()
            editor.join()
    assert {json.dumps(result.revisions) for result in results if result.error is None} <= {
        json.dumps({"spam": revision}) for revision in revisions
    }
    assert [result.error for result in results if result.error is not None] == []
    assert worker.process.poll() is None


def test_a_file_that_goes_away_leaves_its_tasks_in_force(
    redis_url: str, tasks_file: Path, start_fake_worker: Start
) -> None:
    worker = start_fake_worker(MOODQ_TASKS_FILE=str(tasks_file))
    with Client(redis_url) as client:
        tasks_file.unlink()
        until_logged(worker, "cannot read", within_s=1.0)
        assert client.submit("fine", ["spam"]).wait(timeout=WAIT_S).error is None
    assert worker.log.read_text("utf-8").count("cannot read") == 1
