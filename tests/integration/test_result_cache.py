"""A text that was labelled before is answered from Redis: visibly, by any worker, within bounds."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from rq import Queue
from rq.serializers import JSONSerializer

from moodq_config.answers import Answer
from moodq_config.contracts import LabelScores, ModelRef
from moodq_config.names import CACHE_OLD, CACHE_YOUNG, JOB_FUNCTION, result_key
from moodq_config.tasks import load_tasks
from moodq_worker.result_cache import ResultCache

Start = Callable[..., Any]
MODEL = ModelRef(id="m", revision="1", precision="none")
SCORES = LabelScores(label="positive", probability=0.9, scores={"positive": 0.9, "negative": 0.1})
WAIT_S = 30.0


def run(
    connection: Any, texts: list[str], ids: list[str], *, queue: str = "bulk", **fields: Any
) -> list[dict[str, Any]]:
    """Send one job of several items and wait for all results."""
    items = [
        {"id": id, "text": text, "tasks": ["sentiment"], **fields}
        for id, text in zip(ids, texts, strict=True)
    ]
    rq_queue = Queue(queue, connection=connection, serializer=JSONSerializer)
    rq_queue.enqueue_call(JOB_FUNCTION, args=({"v": 1, "items": items},), timeout=-1, result_ttl=600)
    deadline = time.monotonic() + WAIT_S
    while None in (found := connection.mget([result_key(id) for id in ids])):
        assert time.monotonic() < deadline, "no results"
        time.sleep(0.02)
    return [json.loads(value) for value in found]


def cache_of(connection: Any, *, tasks: Path | None = None, **options: Any) -> ResultCache:
    return ResultCache(connection, load_tasks(tasks), MODEL, **{"entries": 100, "ttl_s": 60, **options})


def look_up(cache: ResultCache, connection: Any, keys: list[bytes]) -> list[Answer | None]:
    with connection.pipeline(transaction=False) as pipe:
        cache.ask(pipe, keys)
        return cache.found(*pipe.execute())


def test_the_same_text_is_answered_from_the_cache_by_another_worker_too(
    connection: Any, start_fake_worker: Start
) -> None:
    first = start_fake_worker()
    (new,) = run(connection, ["bad service"], ["a"])
    assert "cached" not in new
    (again,) = run(connection, ["bad service"], ["b"])
    assert again["cached"] == "exact"
    assert again["results"] == new["results"]
    first.stop()
    start_fake_worker()
    (elsewhere,) = run(connection, ["bad service"], ["c"])
    assert elsewhere["cached"] == "exact"
    (other,) = run(connection, ["good service"], ["d"])
    assert "cached" not in other


def test_the_same_texts_of_one_job_are_computed_once(connection: Any, fake_worker: Any) -> None:
    results = run(connection, ["good"] * 4, ["a", "b", "c", "d"])
    assert sorted(result.get("cached", "computed") for result in results) == ["computed"] + ["exact"] * 3
    assert len({json.dumps(result["results"]) for result in results}) == 1


def test_a_message_does_not_wait_for_its_like_in_bulk(connection: Any, fake_worker: Any) -> None:
    queue = Queue("bulk", connection=connection, serializer=JSONSerializer)
    for id, text in (("slow", "[[sleep 4]] alone"), ("like", "same text"), ("more", "[[sleep 4]] again")):
        item = {"id": id, "text": text, "tasks": ["sentiment"]}
        queue.enqueue_call(JOB_FUNCTION, args=({"v": 1, "items": [item]},), timeout=-1, result_ttl=600)
    deadline = time.monotonic() + WAIT_S
    while connection.zcard("rq:wip:bulk") < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    run(connection, ["same text"], ["urgent"], queue="interactive")
    assert connection.get(result_key("slow")) is None or connection.get(result_key("more")) is None


def test_a_text_that_fails_fails_for_all_who_sent_it_and_is_not_remembered(
    connection: Any, fake_worker: Any
) -> None:
    results = run(connection, ["[[raise]]"] * 2 + ["good"], ["a", "b", "c"])
    assert [result["status"] for result in results] == ["failed", "failed", "done"]
    assert connection.hlen(CACHE_YOUNG) == 1


def test_with_a_ttl_of_zero_there_is_no_cache(connection: Any, start_fake_worker: Start) -> None:
    start_fake_worker(MOODQ_CACHE_TTL_S="0")
    for id in ("a", "b"):
        (found,) = run(connection, ["bad"], [id])
        assert "cached" not in found
    assert not connection.exists(CACHE_YOUNG)


def test_a_template_is_opted_in_by_task(
    connection: Any, start_fake_worker: Start, tmp_path: Path, sentiment_by_template: Path
) -> None:
    start_fake_worker(MOODQ_TASKS_FILE=str(sentiment_by_template))
    run(connection, ["child 17 is in error state 6"], ["a"])
    similar, other = run(connection, ["child 4 is in error state 2", "child 4 is well"], ["b", "c"])
    assert similar["cached"] == "template"
    assert "cached" not in other


def test_a_reply_is_remembered_only_where_its_task_asks_for_it(
    connection: Any, start_fake_worker: Start, tmp_path: Path
) -> None:
    worker = start_fake_worker()
    for id in ("a", "b"):
        (found,) = run(connection, ["a bad day"], [id], tasks=["reply"])
        assert "cached" not in found
    worker.stop()
    start_fake_worker(MOODQ_TASKS_FILE=str(shipped_with(tmp_path, "reply", 'cache = "exact"')))
    (new,) = run(connection, ["a bad day"], ["c"], tasks=["sentiment", "reply"])
    (again,) = run(connection, ["a bad day"], ["d"], tasks=["reply"])
    assert "cached" not in new
    assert again["cached"] == "exact"
    assert again["results"] == {"reply": new["results"]["reply"]}
    (talk,) = run(connection, ["a bad day"], ["e"], tasks=["reply"], conversation="c1")
    assert "cached" not in talk


def test_the_key_holds_text_language_task_and_model(connection: Any, sentiment_by_template: Path) -> None:
    cache = cache_of(connection)
    keys = {
        cache.key("sentiment", "en", "state 6"),
        cache.key("sentiment", "en", "state 7"),
        cache.key("sentiment", "zh", "state 6"),
        cache_of(connection, tasks=sentiment_by_template).key("sentiment", "en", "state 6"),
        ResultCache(
            connection, load_tasks(), MODEL.model_copy(update={"revision": "2"}), entries=9, ttl_s=9
        ).key("sentiment", "en", "state 6"),
    }
    assert len(keys) == 5
    assert cache.key("reply", "en", "state 6") is None


def test_the_cache_never_holds_more_than_its_entries(connection: Any) -> None:
    cache = cache_of(connection, entries=100)
    for start in range(0, 1_000, 10):
        cache.store([(f"{number:016}".encode(), SCORES) for number in range(start, start + 10)])
        assert connection.hlen(CACHE_YOUNG) + connection.hlen(CACHE_OLD) <= 100
    assert look_up(cache, connection, [b"%016d" % 999, b"%016d" % 0]) == [SCORES, None]
    assert 0 < connection.ttl(CACHE_OLD) <= 60


def test_a_damaged_entry_is_computed_anew(connection: Any) -> None:
    cache = cache_of(connection)
    connection.hset(CACHE_YOUNG, b"k" * 16, "not json")
    assert look_up(cache, connection, [b"k" * 16]) == [None]


@pytest.fixture
def sentiment_by_template(tmp_path: Path) -> Path:
    """The shipped tasks with sentiment's cache by template."""
    return shipped_with(tmp_path, "sentiment", 'cache = "template"')


def shipped_with(folder: Path, task: str, line: str) -> Path:
    """A file of the shipped tasks, with one more line in one of them."""
    shipped = resources.files("moodq_config").joinpath("tasks.toml").read_text("utf-8")
    head = f"[tasks.{task}]\n"
    assert head in shipped
    path = folder / "tasks.toml"
    path.write_text(shipped.replace(head, f"{head}{line}\n"), "utf-8")
    return path


def test_the_few_unknown_texts_of_many_jobs_share_batches(connection: Any, start_fake_worker: Start) -> None:
    """Log lines are known but for one in a hundred: those ones must not be run one by one."""
    worker = start_fake_worker()
    run(connection, ["good"], ["known"])
    queue = Queue("bulk", connection=connection, serializer=JSONSerializer)
    unknown = [f"new-{number}" for number in range(30)]
    for id in unknown:
        items = [{"id": f"{id}-{n}", "text": "good", "tasks": ["sentiment"]} for n in range(99)]
        items.append({"id": id, "text": f"[[sleep 1.5]] {id}", "tasks": ["sentiment"]})
        queue.enqueue_call(JOB_FUNCTION, args=({"v": 1, "items": items},), timeout=-1, result_ttl=600)
    deadline = time.monotonic() + WAIT_S
    while None in connection.mget([result_key(id) for id in unknown]):
        assert time.monotonic() < deadline, "no results"
        time.sleep(0.05)
    port = re.search(r"metrics on port (\d+)", worker.log.read_text("utf-8"))
    assert port is not None
    with urlopen(f"http://127.0.0.1:{port[1]}/metrics") as page:
        metrics = page.read().decode()
    batches = re.search(r'moodq_batch_items_count\{[^}]*task="sentiment"[^}]*\} (\S+)', metrics)
    assert batches is not None
    assert float(batches[1]) <= 8
