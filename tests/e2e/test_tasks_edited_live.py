"""A tasks file edited under a running worker with the real model."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from moodq_config.answers import GeneratedText, LabelScores
from moodq_config.tasks import load_tasks
from moodq_producer import Client

pytestmark = pytest.mark.real_model

WAIT_S = 60.0
TASTE = """
[tasks.taste]
kind = "label"
labels = ["liked", "disliked"]

[tasks.taste.prompt.zh]
system = "这条评论说好吃还是难吃？只回答“好吃”或“难吃”。"
words = { GOOD = "好吃", BAD = "难吃" }

[tasks.taste.prompt.en]
system = "Did the guest like the food? Answer yes or no."
words = { GOOD = "yes", BAD = "no" }
"""


def taste(good: str, bad: str) -> str:
    """The task, with the labels that the model's words for good and bad stand for."""
    return TASTE.replace("GOOD", good).replace("BAD", bad)


def save(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text, "utf-8")
    os.replace(new, path)


def test_a_task_is_added_and_changed_under_a_running_worker_and_a_reply_under_way_is_finished(
    service: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_tasks = service.tasks_file.read_text("utf-8")
    monkeypatch.setenv("MOODQ_TASKS_FILE", str(service.tasks_file))
    texts = {"zh": "这家的牛肉面太好吃了，下次还来！", "en": "Delicious soup, we loved it."}
    with Client(service.redis_url) as client:
        try:
            story = client.submit("A dog in the rain.", ["story"])
            told = story.stream(timeout=WAIT_S)
            assert next(told).kind == "token"  # it is being written
            story_revision = load_tasks(service.tasks_file).revision_of("story")

            save(service.tasks_file, taste("liked", "disliked"))  # a new task, and no story any more
            for lang, text in texts.items():
                saved = time.monotonic()
                found = client.submit(text, ["taste"]).wait(timeout=WAIT_S)
                answer = found.results["taste"]
                assert isinstance(answer, LabelScores)
                assert answer.label == "liked", lang
                print(f"{lang}: answered {time.monotonic() - saved:.2f} s later")

            ended = story.wait(timeout=WAIT_S)
            assert ended.error is None
            assert isinstance(ended.results["story"], GeneratedText)
            assert ended.revisions == {"story": story_revision}

            save(service.tasks_file, taste("disliked", "liked"))
            revision = load_tasks(service.tasks_file).revision_of("taste")
            assert revision != (found.revisions or {})["taste"]
            time.sleep(1.0)
            for lang, text in texts.items():
                changed = client.submit(text, ["taste"]).wait(timeout=WAIT_S)
                answer = changed.results["taste"]
                assert isinstance(answer, LabelScores)
                assert answer.label == "disliked", f"{lang}: answered by the words from before"
                assert changed.revisions == {"taste": revision}
        finally:
            save(service.tasks_file, own_tasks)
