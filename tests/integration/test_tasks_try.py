"""``moodq tasks try --queue`` through a running worker, and what it says when there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from moodq_config.cli_tasks import tasks
from moodq_config.contracts import Result as ItemResult
from moodq_config.errors import Unavailable, WaitTimeout
from moodq_config.tasks import load_tasks

Start = Callable[..., Any]


@pytest.fixture(autouse=True)
def _settings(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOODQ_REDIS_URL", redis_url)
    monkeypatch.delenv("MOODQ_TASKS_FILE", raising=False)


def run(*words: str) -> Result:
    return CliRunner().invoke(tasks, ["try", *words, "--queue"])


def test_a_text_goes_through_a_running_worker_and_its_stages_are_shown(
    start_fake_worker: Start,
) -> None:
    worker = start_fake_worker()
    for text, label in (("差评", "negative"), ("fine", "positive")):
        done = run("sentiment", text)
        assert done.exit_code == 0, done.output
        assert done.stdout.startswith(f"sentiment: {label} 0.900\n")
        assert "queue " in done.stdout
        assert f"task revision {load_tasks().revision_of('sentiment')}" in done.stdout
    assert "answered from the cache (exact)" in run("sentiment", "fine").stdout
    told = ItemResult.model_validate_json(run("topic", "moon", "--labels", "sun,moon", "--json").stdout)
    assert told.worker == worker.name


def test_an_item_that_fails_is_told_with_its_code(start_fake_worker: Start) -> None:
    start_fake_worker(MOODQ_MAX_ATTEMPTS="1")
    done = run("sentiment", "[[raise]]")
    assert done.exit_code == 3
    assert "engine_failed: " in done.stderr


def test_without_a_worker_it_says_so_and_ends_in_time() -> None:
    done = run("sentiment", "fine", "--timeout", "0.3")
    assert isinstance(done.exception, WaitTimeout)
    assert "no worker is alive" in done.stderr


def test_without_redis_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODQ_REDIS_URL", "redis://127.0.0.1:1/0")
    done = run("sentiment", "fine")
    assert isinstance(done.exception, Unavailable)
    assert "moodq up" in done.exception.message
