"""When a failed job runs again: by its code, after a growing wait, or when its producer said so."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rq import Queue, Retry
from rq.job import Job, JobStatus
from rq.registry import FailedJobRegistry
from rq.scheduler import RQScheduler
from rq.serializers import JSONSerializer

from moodq_config.errors import ErrorCode, ModelError
from moodq_config.settings import load_settings
from moodq_producer import Client
from moodq_worker.delivery import Terms
from moodq_worker.rq_worker import BatchWorker

Start = Callable[..., Any]
MakeWorker = Callable[..., BatchWorker]
Push = Callable[..., Job]
WAIT_S = 60.0


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(load_settings(redis_url=redis_url)) as client:
        yield client


def test_waits_double_up_to_the_longest_and_differ(tmp_path: Any) -> None:
    terms = Terms("w", None, 60, 9, 99, backoff_s=1.0, max_backoff_s=8.0)  # type: ignore[arg-type]
    for attempt, longest in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (7, 8.0), (2_000, 8.0)]:
        waits = {terms.backoff(attempt) for _ in range(50)}
        assert all(longest / 2 <= wait <= longest for wait in waits)
        assert len(waits) > 10


def test_a_failed_job_waits_in_rqs_scheduled_registry_and_then_runs_again(
    connection: Any, client: Client, start_fake_worker: Start
) -> None:
    start_fake_worker(MOODQ_RETRY_BACKOFF_S="4", MOODQ_MAX_ATTEMPTS="2")
    client.submit("[[raise]]", id="again")
    scheduled = "rq:scheduled:interactive"
    deadline = time.monotonic() + WAIT_S
    while not connection.zcard(scheduled):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    began = time.monotonic()
    assert Job.fetch("again", connection, serializer=JSONSerializer).get_status() == JobStatus.SCHEDULED
    assert client.result("again") is None
    result = next(client.wait(["again"], WAIT_S))
    assert (result.error.code, result.attempt) == ("engine_failed", 2)  # type: ignore[union-attr]
    assert 0.9 <= time.monotonic() - began < 8


def test_the_intervals_a_producer_gave_are_kept(
    connection: Any, client: Client, start_fake_worker: Start
) -> None:
    start_fake_worker(MOODQ_RETRY_BACKOFF_S="600", MOODQ_MAX_RETRY_BACKOFF_S="600")
    payload = {"v": 1, "items": [{"id": "mine", "text": "[[raise]]", "tasks": ["sentiment"]}]}
    queue = Queue("interactive", connection=connection, serializer=JSONSerializer)
    queue.enqueue_call("moodq.run", args=(payload,), job_id="mine", retry=Retry(max=2, interval=[1, 1]))
    assert next(client.wait(["mine"], WAIT_S)).attempt == 3


def test_bad_input_is_not_run_again(connection: Any, client: Client, start_fake_worker: Start) -> None:
    start_fake_worker(MOODQ_RETRY_BACKOFF_S="600", MOODQ_MAX_RETRY_BACKOFF_S="600")
    payload = {"v": 1, "items": [{"id": "blank", "text": " ", "tasks": ["sentiment"]}]}
    queue = Queue("interactive", connection=connection, serializer=JSONSerializer)
    queue.enqueue_call("moodq.run", args=(payload,), job_id="blank", retry=Retry(max=2))
    assert next(client.wait(["blank"], WAIT_S)).attempt == 1
    for _ in range(100):
        if FailedJobRegistry("interactive", connection=connection).get_job_ids(cleanup=False) == ["blank"]:
            return
        time.sleep(0.05)
    raise AssertionError("the job is not in the failed registry")


def test_only_what_is_due_is_moved_each_job_once_and_in_front_where_asked(
    connection: Any, make_worker: MakeWorker, push: Push
) -> None:
    first, second = make_worker(), make_worker()
    push("waits")
    scheduled = "rq:scheduled:interactive"
    queue = Queue("interactive", connection=connection, serializer=JSONSerializer)
    now = int(connection.time()[0])
    for id, due, front in [("due", now - 1, 0), ("front", now - 1, 1), ("later", now + 600, 0)]:
        job = queue.create_job("moodq.run", args=({},), job_id=id, status=JobStatus.SCHEDULED)
        job.enqueue_at_front = bool(front)
        job.save()
        connection.zadd(scheduled, {id: due})
    connection.zadd(scheduled, {"no-such-job": now - 5})
    assert first.move_due() + second.move_due() == 2
    assert queue.get_job_ids() == ["front", "waits", "due"]
    assert [id.decode() for id in connection.zrange(scheduled, 0, -1)] == ["later"]
    assert connection.hget("rq:job:due", "status") == b"queued"


def test_a_scheduler_of_rq_that_holds_the_queues_lock_is_left_to_its_work(
    connection: Any, make_worker: MakeWorker, push: Push
) -> None:
    worker = make_worker()
    scheduler: Any = RQScheduler(["interactive"], connection=connection, serializer=JSONSerializer)
    assert scheduler.acquire_locks() == {"interactive"}
    push("job")
    connection.delete("rq:queue:interactive")
    connection.hset("rq:job:job", "status", "scheduled")
    connection.zadd("rq:scheduled:interactive", {"job": 1})
    assert worker.move_due() == 0
    scheduler.release_locks()
    assert worker.move_due() == 1


def test_an_interval_of_rq_wins_over_the_backoff(make_worker: MakeWorker, push: Push) -> None:
    worker = make_worker()
    push("plain", retry=Retry(max=1))
    push("timed", retry=Retry(max=1, interval=7))
    claims = {claim.job.id: claim for claim in worker.claim(2, ["interactive"])}
    error = ModelError("x", code=ErrorCode.ENGINE_FAILED)
    now = time.time()
    for claim in claims.values():
        assert worker.fail(claim, error, retry=True, backoff_s=100)
    server: Any = worker.connection
    due = dict(server.zrange("rq:scheduled:interactive", 0, -1, withscores=True))
    assert due[b"plain"] == pytest.approx(now + 100, abs=3)
    assert due[b"timed"] == pytest.approx(now + 7, abs=3)
