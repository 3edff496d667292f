"""``moodq tasks try`` as a person runs it: a process of its own, the real model, no Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from moodq_config.answers import GeneratedText
from moodq_config.contracts import Result
from moodq_config.tasks import load_tasks
from moodq_worker.model_store import ModelFiles

pytestmark = pytest.mark.real_model

RUN = "from moodq_config.cli import main; main()"


def moodq(*words: str, cwd: Path, files: ModelFiles) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
    # Nothing listens there: whoever asked for Redis would fail.
    env = {**inherited, "MOODQ_MODEL": str(files.path), "MOODQ_REDIS_URL": "redis://127.0.0.1:1/0"}
    return subprocess.run(
        [sys.executable, "-c", RUN, "tasks", *words],
        cwd=cwd, env=env, capture_output=True, encoding="utf-8", timeout=240, check=False,
    )  # fmt: skip


def test_a_text_gets_its_label_from_the_real_model_without_redis(
    tmp_path: Path, model_files: ModelFiles
) -> None:
    done = moodq("try", "sentiment", "等了两个小时还没到，差评", cwd=tmp_path, files=model_files)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("sentiment: negative ")
    assert f"task revision {load_tasks().revision_of('sentiment')}" in done.stdout


def test_an_edited_copy_of_a_shipped_task_is_tried_before_it_is_put_in_force(
    tmp_path: Path, model_files: ModelFiles
) -> None:
    shown = moodq("show", "reply", cwd=tmp_path, files=model_files)
    mine = tmp_path / "mine.toml"
    mine.write_text(shown.stdout.replace("max_new_tokens = 80", "max_new_tokens = 12"), "utf-8")
    done = moodq(
        "try",
        "reply",
        "Can I wash this coat in the machine?",
        "--file",
        str(mine),
        "--json",
        cwd=tmp_path,
        files=model_files,
    )
    assert done.returncode == 0, done.stderr
    result = Result.model_validate_json(done.stdout)
    answer = result.results["reply"]
    assert isinstance(answer, GeneratedText)
    assert 0 < answer.tokens <= 12
    assert answer.text.isascii()
    assert result.revisions == {"reply": load_tasks(mine).revision_of("reply")}
