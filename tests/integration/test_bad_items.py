"""A text the model cannot bear fails alone, whatever it does: its neighbours are done, and it is found in
RQ's failed registry with reason and attempts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rq.job import Job
from rq.registry import FailedJobRegistry, FinishedJobRegistry
from rq.serializers import JSONSerializer

from moodq_config.names import FAILURE_FIELD
from moodq_config.settings import load_settings
from moodq_producer import Client, Result

Start = Callable[..., Any]
WAIT_S = 60.0
#: At once, so that the tests are quick; the waits have tests of their own.
NO_WAIT = {"MOODQ_RETRY_BACKOFF_S": "0"}


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(load_settings(redis_url=redis_url)) as client:
        yield client


def send(client: Client, poison: str, tasks: list[str], count: int = 9) -> dict[str, Result]:
    """``count`` texts in one job, the fifth of them ``poison``; their results."""
    texts = [{"id": f"n{n}", "text": f"text {n}" if n != 4 else poison} for n in range(count)]
    tickets = list(client.submit_many(texts, tasks, queue="interactive"))
    return {result.id: result for result in client.wait([each.id for each in tickets], WAIT_S)}


def check_alone(connection: Any, results: dict[str, Result], code: str, attempts: int) -> None:
    """Only the poison failed; it is in the failed registry by itself, and its neighbours' job is finished."""
    failed = {id: found.error.code for id, found in results.items() if found.error is not None}
    assert failed == {"n4": code}
    registry = FailedJobRegistry("interactive", connection=connection)
    finished = FinishedJobRegistry("interactive", connection=connection)
    for _ in range(200):
        if finished.get_job_ids(cleanup=False):
            break
        connection.blpop("never", timeout=0.05)
    assert registry.get_job_ids(cleanup=False) == ["n4"]
    assert len(finished.get_job_ids(cleanup=False)) == 1
    job = Job.fetch("n4", connection=connection, serializer=JSONSerializer)
    assert [item["id"] for item in job.args[0]["items"]] == ["n4"]
    latest = job.latest_result()
    assert latest is not None
    assert str(latest.exc_string).startswith(f"{code}: ")
    told = json.loads(connection.hget(job.key, FAILURE_FIELD))
    assert (told["code"], told["attempts"]) == (code, attempts)
    assert 0 < connection.ttl(job.key) <= 86_400


@pytest.mark.parametrize("poison", ["[[raise]]", "[[oom]]", "[[nan]]"])
def test_a_text_that_makes_a_pass_fail_fails_alone(
    connection: Any, client: Client, start_fake_worker: Start, poison: str
) -> None:
    start_fake_worker(**NO_WAIT)
    check_alone(connection, send(client, poison, ["sentiment"]), "engine_failed", attempts=3)


def test_a_text_that_takes_too_long_is_left_between_two_layers_and_fails_alone(
    connection: Any, client: Client, start_fake_worker: Start
) -> None:
    start_fake_worker(**NO_WAIT, MOODQ_PASS_TIMEOUT_S="0.2", MOODQ_MAX_ATTEMPTS="2")
    client_results = send(client, "[[sleep 2]]", ["sentiment"])
    check_alone(connection, client_results, "engine_timeout", attempts=2)
    assert "MOODQ_PASS_TIMEOUT_S" in str(client_results["n4"].error)


@pytest.mark.parametrize("poison", ["[[raise]]", "[[raise later]]", "[[nan later]]", "[[oom]]"])
def test_a_text_that_makes_replies_fail_fails_alone(
    connection: Any, client: Client, start_fake_worker: Start, poison: str
) -> None:
    start_fake_worker(**NO_WAIT)
    results = send(client, poison, ["reply"])
    check_alone(connection, results, "engine_failed", attempts=3)
    assert results["n3"].results["reply"].text == "echo: text 3"  # type: ignore[union-attr]


def test_a_reply_that_takes_too_long_fails_alone(
    connection: Any, client: Client, start_fake_worker: Start
) -> None:
    start_fake_worker(**NO_WAIT, MOODQ_REPLY_TIMEOUT_S="0.3", MOODQ_MAX_ATTEMPTS="2")
    client.submit("[[sleep later 0.6]] [[words 9]]", ["reply"], id="slow")
    assert next(client.wait(["slow"], WAIT_S)).error.code == "engine_timeout"  # type: ignore[union-attr]
    client.submit("quick", ["reply"], id="quick")
    assert next(client.wait(["quick"], WAIT_S)).status == "done"


def test_a_reply_that_began_anew_says_nothing_twice(client: Client, start_fake_worker: Start) -> None:
    start_fake_worker(**NO_WAIT)
    client.submit("[[raise later]] poison", ["reply"], id="poison")
    ticket = client.submit("[[words 20]] beside the poison", ["reply"], id="beside")
    events = list(ticket.stream(WAIT_S))
    said = "".join(event.text for event in events if event.kind == "token")
    assert events[-1].result is not None
    assert said.strip() == events[-1].result.results["reply"].text  # type: ignore[union-attr]


def test_bad_input_among_others_is_told_in_its_result_and_leaves_no_failed_job(
    connection: Any, client: Client, start_fake_worker: Start
) -> None:
    start_fake_worker(**NO_WAIT)
    good = {"id": "good", "text": "fine", "tasks": ["sentiment"]}
    job = {"v": 1, "items": [good, {**good, "id": "bad", "text": " "}]}
    key = "rq:job:both"
    connection.hset(
        key,
        mapping={
            "data": json.dumps(["moodq.run", None, [job], {}]),
            "origin": "interactive",
            "status": "queued",
            "retries_left": 2,
        },
    )
    connection.rpush("rq:queue:interactive", "both")
    results = {found.id: found for found in client.wait(["good", "bad"], WAIT_S)}
    assert results["bad"].attempt == 1
    assert FailedJobRegistry("interactive", connection=connection).get_job_ids(cleanup=False) == []
