"""A task with a threshold leaves a text undecided, in its result and when it is answered from the cache."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from rq import Queue
from rq.serializers import JSONSerializer

from moodq_config.answers import LabelScores
from moodq_config.contracts import ModelRef
from moodq_config.names import JOB_FUNCTION, result_key
from moodq_config.tasks import ChooseTask, load_tasks
from moodq_worker.result_cache import ResultCache

WAIT_S = 30.0


@pytest.fixture
def strict_tasks(tmp_path: Path) -> Path:
    """The shipped tasks with a threshold that the fake engine, always 0.9 sure, does not reach."""
    shipped = resources.files("moodq_config").joinpath("tasks.toml").read_text("utf-8")
    head, found, rest = shipped.partition('labels = ["positive", "negative"]\n')
    assert found
    rest = "\n".join(line for line in rest.split("\n") if not line.startswith("threshold"))
    path = tmp_path / "strict.toml"
    path.write_text(f"{head}{found}threshold = 0.95\n{rest}", "utf-8")
    return path


def send(connection: Any, id: str, tasks: list[str]) -> dict[str, Any]:
    queue = Queue("bulk", connection=connection, serializer=JSONSerializer)
    item = {"id": id, "text": "bad service", "tasks": tasks}
    queue.enqueue_call(JOB_FUNCTION, args=({"v": 1, "items": [item]},), timeout=-1, result_ttl=600)
    deadline = time.monotonic() + WAIT_S
    while (value := connection.get(result_key(id))) is None:
        assert time.monotonic() < deadline, "no result"
        time.sleep(0.02)
    found: dict[str, Any] = json.loads(value)
    return found


def test_below_the_threshold_the_label_is_uncertain_also_from_the_cache_and_a_reply_is_still_steered(
    connection: Any, start_fake_worker: Callable[..., Any], strict_tasks: Path
) -> None:
    start_fake_worker(MOODQ_TASKS_FILE=str(strict_tasks))
    uncertain = {
        "label": "uncertain",
        "probability": 0.9,
        "scores": {"positive": pytest.approx(0.1), "negative": 0.9},
    }
    assert send(connection, "a", ["sentiment"])["results"] == {"sentiment": uncertain}
    again = send(connection, "b", ["sentiment"])
    assert (again["results"], again["cached"]) == ({"sentiment": uncertain}, "exact")
    replied = send(connection, "c", ["sentiment", "reply"])
    assert replied["status"] == "done"
    assert replied["results"]["sentiment"] == uncertain
    assert replied["results"]["reply"]["text"]


def test_an_answer_in_the_cache_that_the_threshold_would_not_give_does_not_count(
    connection: Any, strict_tasks: Path
) -> None:
    tasks = load_tasks(strict_tasks)
    model = ModelRef(id="m", revision="1", precision="none")
    cache = ResultCache(connection, tasks, model, entries=100, ttl_s=60)
    scores = {"positive": 0.1, "negative": 0.9}
    sentiment = tasks["sentiment"]
    assert cache.fits(sentiment, LabelScores.of(scores, threshold=0.95))
    assert not cache.fits(sentiment, LabelScores.of(scores))
    chooses = next(task for task in tasks.values() if isinstance(task, ChooseTask))
    assert not cache.fits(chooses, LabelScores(label="uncertain", probability=0.0, scores={}))
