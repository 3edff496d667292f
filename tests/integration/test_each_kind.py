"""Every kind of task through the queue: what goes in, and the form of what comes out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from moodq_config.answers import Extracted, LabelScores, LabelSet, Ranking, Score
from moodq_config.cli import root
from moodq_producer import AsyncClient, Client
from moodq_worker.embedded import free_port

Start = Callable[..., Any]

EXTRACT = """
[tasks.order]
kind = "extract"
max_new_tokens = 4
schema.type = "object"
schema.required = ["n", "kind"]
schema.properties = { n = { type = "integer", minimum = 3 }, kind = { enum = ["late", "lost"] } }
prompt.zh = { system = "提取" }
prompt.en = { system = "Extract" }
"""
SIDES = """
[tasks.sides]
kind = "multilabel"
labels = ["delivery", "quality", "price", "service"]

[tasks.sides.prompt.zh]
system = "谈到了吗？"
ask = { delivery = "配送？", quality = "质量？", price = "价格？", service = "客服？" }
yes = "是"
no = "否"

[tasks.sides.prompt.en]
system = "Is it about this?"
ask = { delivery = "Delivery?", quality = "Quality?", price = "Price?", service = "Service?" }
yes = "yes"
no = "no"
"""


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of a tasks file with a task of the one kind that is not shipped, in the clients' settings."""
    path = tmp_path / "sides.toml"
    path.write_text(SIDES, "utf-8")
    monkeypatch.setenv("MOODQ_TASKS_FILE", str(path))
    return str(path)


def ask(client: Client, text: str, task: str, **fields: Any) -> Any:
    result = client.submit(text, [task], **fields).wait(timeout=30)
    assert result.error is None
    return result.results[task]


def test_each_kind_gives_a_result_of_its_own_form(
    redis_url: str, sides: str, start_fake_worker: Start
) -> None:
    start_fake_worker(MOODQ_TASKS_FILE=sides)
    with Client(redis_url) as client:
        found = ask(client, "the price is bad and so is delivery", "sides")
        assert isinstance(found, LabelSet)
        assert found.labels == ("delivery", "price")
        assert found.scores == {"delivery": 0.9, "quality": 0.1, "price": 0.9, "service": 0.1}

        found = ask(client, "disk is bad", "needs_attention")
        assert isinstance(found, Score)
        assert found.score == pytest.approx(0.9)
        assert found.scores == pytest.approx({"no": 0.1, "yes": 0.9})

        found = ask(client, "I like food", "topic", labels=["travel", "food", "money"])
        assert isinstance(found, LabelScores)
        assert found.label == "food"
        assert list(found.scores) == ["travel", "food", "money"]

        documents = ["nothing", "how to reset it", "how to pay"]
        found = ask(client, "how to reset", "rerank", documents=documents)
        assert isinstance(found, Ranking)
        assert found.ranking == (1, 2, 0)
        assert found.scores == pytest.approx((0, 1, 2 / 3))

        found = ask(client, "some words", "keywords")
        assert isinstance(found, Extracted)
        assert found.data == {"keywords": ["x"]}


async def test_the_async_client_sends_labels_and_documents_too(redis_url: str, fake_worker: Any) -> None:
    async with AsyncClient(redis_url) as client:
        ticket = await client.submit("I like food", ["topic"], labels=["travel", "food"])
        found = (await ticket.wait(timeout=30)).results["topic"]
        assert isinstance(found, LabelScores)
        assert found.label == "food"
        ticket = await client.submit("a b", ["rerank"], documents=["b", "a b"])
        ranked = (await ticket.wait(timeout=30)).results["rerank"]
        assert isinstance(ranked, Ranking)
        assert ranked.ranking == (1, 0)


def test_one_item_may_have_tasks_of_every_kind(redis_url: str, sides: str, start_fake_worker: Start) -> None:
    start_fake_worker(MOODQ_TASKS_FILE=sides)
    names = ["keywords", "sentiment", "rerank", "topic", "sides", "needs_attention", "summary"]
    with Client(redis_url) as client:
        ticket = client.submit("bad price", names, labels=["price", "food"], documents=["bad price", "x"])
        events = list(ticket.stream(timeout=30))
    result = events[-1].result
    assert result is not None
    assert list(result.results) == names
    assert events[0].kind == "label"
    assert set(events[0].labels) == {"sentiment", "rerank", "topic", "sides", "needs_attention"}
    told = {event.task for event in events if event.kind == "token"}
    assert told == {"summary"}, "JSON is given out whole, when it has been validated"


def test_json_that_does_not_end_in_time_fails_with_its_code_at_the_first_attempt(
    redis_url: str, start_fake_worker: Start, tmp_path: Path
) -> None:
    tasks = tmp_path / "order.toml"
    tasks.write_text(EXTRACT, "utf-8")
    start_fake_worker(MOODQ_TASKS_FILE=str(tasks))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOODQ_TASKS_FILE", str(tasks))
        with Client(redis_url) as client:
            assert ask(client, "a b c", "order").data == {"n": 3, "kind": "late"}
            failed = client.submit("[[words 9]]", ["order"]).wait(timeout=30)
    assert failed.error is not None
    assert failed.error.code == "answer_too_long"
    assert "max_new_tokens" in failed.error.message
    assert failed.attempt == 1
    assert not failed.results


@pytest.mark.parametrize(
    ("good", "bad", "warm", "named"),
    [
        ('"object"', '"objekt"', "order", "tasks.order.schema"),
        ('"object"', '"object"', "order,nothing", "MOODQ_WARM_TASKS: 'nothing' is not a task"),
    ],
)
def test_a_worker_that_cannot_follow_its_tasks_ends_before_it_takes_work(
    redis_url: str, tmp_path: Path, good: str, bad: str, warm: str, named: str
) -> None:
    tasks = tmp_path / "order.toml"
    tasks.write_text(EXTRACT.replace(good, bad), "utf-8")
    settings = {"ENGINE": "fake", "REDIS_URL": redis_url, "TASKS_FILE": str(tasks), "WARM_TASKS": warm}
    ended = subprocess.run(
        [sys.executable, "-m", "moodq_worker"],
        env={**os.environ, **{f"MOODQ_{name}": value for name, value in settings.items()}},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert named in ended.stderr


def test_the_same_text_with_other_labels_is_asked_anew_and_with_the_same_is_remembered(
    redis_url: str, fake_worker: Any
) -> None:
    with Client(redis_url) as client:

        def cached(*labels: str) -> str | None:
            return client.submit("food\0a", ["topic"], labels=labels).wait(timeout=30).cached

        assert cached("travel", "food") is None
        assert cached("travel", "food") == "exact"
        assert cached("food", "travel") is None
        assert cached("travel", "food", "money") is None
        assert client.submit("x", ["rerank"], documents=["x"]).wait(timeout=30).cached is None
        assert client.submit("x", ["rerank"], documents=["x"]).wait(timeout=30).cached is None


def test_labels_of_requests_make_no_metric_series_and_those_of_tasks_do(
    redis_url: str, sides: str, start_fake_worker: Start
) -> None:
    port = free_port()
    start_fake_worker(MOODQ_METRICS_PORT=str(port), MOODQ_TASKS_FILE=sides)
    with Client(redis_url) as client:
        ask(client, "price", "sides")
        ask(client, "x", "topic", labels=["secret", "food"])
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        page = answer.read().decode()
    assert 'moodq_labels_total{label="price",task="sides"} 1.0' in page
    assert "secret" not in page


def test_a_document_of_too_many_tokens_is_refused_by_the_worker(
    redis_url: str, start_fake_worker: Start
) -> None:
    start_fake_worker(MOODQ_MAX_TEXT_TOKENS="20")
    with Client(redis_url) as client:
        failed = client.submit("x", ["rerank"], documents=["short", "y" * 30]).wait(timeout=30)
    assert failed.error is not None
    assert failed.error.code == "text_too_long"
    assert "'documents.1' has 30 tokens, the limit is 20" in failed.error.message


def test_a_ranking_without_numbers_fails_its_item_alone(redis_url: str, fake_worker: Any) -> None:
    sources = [
        {"text": "[[nan]] a", "documents": ["a"]},
        {"text": "a", "documents": ["a"]},
    ]
    with Client(redis_url) as client:
        tickets = list(client.submit_many(sources, ["rerank"], chunk=2))
        results = {result.id: result for result in client.wait([ticket.id for ticket in tickets], 30)}
    broken, fine = (results[ticket.id] for ticket in tickets)
    assert broken.error is not None
    assert broken.error.code == "engine_failed"
    assert fine.error is None


def test_the_command_line_shows_each_kind_in_a_table_and_as_json(
    redis_url: str, sides: str, start_fake_worker: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_fake_worker(MOODQ_TASKS_FILE=sides)
    monkeypatch.setenv("MOODQ_REDIS_URL", redis_url)
    monkeypatch.setenv("COLUMNS", "200")
    told = ["send", "bad price", "--tasks", "sides,needs_attention,topic,rerank,keywords"]
    told += ["--labels", "food, price", "--document", "x", "--document", "price"]
    table = CliRunner().invoke(root, told)
    assert table.exit_code == 0, table.output
    for cell in ("price 0.900", "0.900", '{"keywords": ["x"]}', "1 (0.500), 0 (0.000)"):
        assert cell in table.output
    line = CliRunner().invoke(root, [*told, "--json"])
    results = json.loads(line.output)["results"]
    assert results["rerank"] == {"scores": [0.0, 0.5], "ranking": [1, 0]}
    assert results["keywords"] == {"data": {"keywords": ["x"]}, "tokens": 1}
    assert results["sides"]["labels"] == ["price"]
    streamed = CliRunner().invoke(root, [*told[:2], "--tasks", "sides,keywords", "--stream"])
    assert streamed.output.splitlines()[:2] == ["sides: price 0.900", 'keywords: {"keywords": ["x"]}']
    refused = CliRunner().invoke(root, ["send", "x", "--tasks", "topic"])
    assert refused.exit_code == 3
    assert "'labels'" in refused.output
