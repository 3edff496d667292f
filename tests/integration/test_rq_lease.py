"""Leases: what a living worker holds stays its own; what a dead one held is taken over."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq.job import Job, JobStatus, Retry
from rq.queue import Queue
from rq.registry import clean_registries
from rq.serializers import JSONSerializer
from rq.worker import Worker

from moodq_config.errors import ConfigError, ErrorCode
from moodq_config.names import ATTEMPTS_FIELD, INTERACTIVE
from moodq_producer import Client
from moodq_worker.rq_claim import Claim
from moodq_worker.rq_worker import BatchWorker

MakeWorker = Callable[..., BatchWorker]
Push = Callable[..., Job]


def expire_leases(connection: Any) -> None:
    """Let time pass for the started jobs: their leases end now."""
    for member in connection.zrange("rq:wip:interactive", 0, -1):
        connection.zincrby("rq:wip:interactive", -100.0, member)


def waiting(connection: Any) -> list[str]:
    return [job_id.decode() for job_id in connection.lrange("rq:queue:interactive", 0, -1)]


def test_a_dead_workers_jobs_go_back_in_front_of_the_queue(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    job = push("a", retry=Retry(max=4))
    dead, alive = make_worker(), make_worker()
    (claim,) = dead.claim(1, [INTERACTIVE])
    push("b")
    assert alive.take_over().requeued == 0
    expire_leases(connection)
    taken = alive.take_over()
    assert (taken.requeued, taken.given_up) == (1, [])
    assert waiting(connection) == ["a", "b"]
    job.refresh()  # type: ignore[no-untyped-call]
    assert (job.get_status(), job.retries_left) == (JobStatus.QUEUED, 3)
    for key in (claim.execution.key, dead.executions_key, "rq:executions:a", "rq:wip:interactive"):
        assert not connection.exists(key), key
    assert [claim.attempt for claim in alive.claim(2, [INTERACTIVE])] == [2, 1]


def test_several_jobs_of_a_dead_worker_keep_their_order(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    dead, alive = make_worker(), make_worker()
    for job_id in ("c", "a", "b"):
        push(job_id)
        dead.claim(1, [INTERACTIVE])
        time.sleep(0.01)
    expire_leases(connection)
    assert alive.take_over().requeued == 3
    assert waiting(connection) == ["c", "a", "b"]


def test_a_lease_ends_by_itself_when_no_heartbeat_comes(push: Push, make_worker: MakeWorker) -> None:
    push("a")
    dead, alive = make_worker(lease_s=0.3), make_worker()
    dead.claim(1, [INTERACTIVE])
    deadline = time.monotonic() + 30
    while not alive.take_over().requeued:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_heartbeat_keeps_every_job_in_hand(push: Push, make_worker: MakeWorker, connection: Redis) -> None:
    for number in range(3):
        push(f"a{number}")
    worker, other = make_worker(), make_worker()
    claims = worker.claim(3, [INTERACTIVE])
    expire_leases(connection)
    before = connection.hget("rq:job:a0", "last_heartbeat")
    for claim in claims:
        connection.expire(claim.execution.key, 5)
    worker.beat()
    assert other.take_over().requeued == 0
    assert connection.hget("rq:job:a0", "last_heartbeat") != before
    assert all(connection.ttl(claim.execution.key) > 5 for claim in claims)
    assert all(worker.finish([], [(claim, {"done": 1}) for claim in claims]))


def test_a_heartbeat_does_not_bring_back_what_was_deleted(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    job = push("a")
    worker = make_worker()
    worker.claim(1, [INTERACTIVE])
    job.delete()
    worker.beat()
    assert connection.keys("*:a*") == []


def test_a_heartbeat_brings_back_the_workers_own_entry_when_it_has_expired(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    push("a")
    worker = make_worker()
    worker.claim(1, [INTERACTIVE])
    connection.delete(worker.key)
    connection.delete("rq:workers", "rq:workers:interactive")
    worker.beat()
    (seen,) = Worker.all(connection=connection)
    assert (seen.name, seen.get_state()) == (worker.name, "busy")
    assert connection.ttl(worker.key) > 0
    assert seen.queue_names() == [INTERACTIVE]


def test_a_job_whose_attempts_are_used_up_is_given_up_once_and_failed_with_its_reason(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    job = push("a", retry=Retry(max=9))
    *dead, first, second = (make_worker(max_attempts=2) for _ in range(4))
    for attempt in (1, 2):
        assert [claim.attempt for claim in dead[attempt - 1].claim(1, [INTERACTIVE])] == [attempt]
        expire_leases(connection)
        taken = first.take_over()
        assert taken.requeued == (1 if attempt == 1 else 0)
    (claim,) = taken.given_up
    assert second.take_over().given_up == [], "one worker is enough to fail it"
    assert claim.error is not None
    assert claim.error.code == ErrorCode.MAX_ATTEMPTS
    assert claim.attempt == 2
    assert first.put_back([claim]) == 0
    assert first.fail(claim, claim.error, retry=False)
    assert job.get_status() == JobStatus.FAILED
    result = claim.job.latest_result()
    assert result is not None
    assert (result.exc_string or "").startswith("max_attempts: ")
    assert claim.queue.failed_job_registry.get_job_ids() == ["a"]
    assert not connection.exists("rq:wip:interactive", claim.execution.key, dead[1].executions_key)


def test_a_job_that_was_given_up_by_a_worker_that_died_too_is_given_up_again(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    push("a")
    dead, alive = make_worker(max_attempts=1), make_worker(max_attempts=1)
    dead.claim(1, [INTERACTIVE])
    expire_leases(connection)
    assert len(dead.take_over().given_up) == 1
    expire_leases(connection)
    assert len(alive.take_over().given_up) == 1


def test_a_job_on_its_last_attempt_is_claimed_alone_by_empty_hands(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    for id in ("poison", "neighbour"):
        push(id)
        connection.hset(f"rq:job:{id}", ATTEMPTS_FIELD, 2)
    push("later")
    push("bulk", queue="bulk")
    worker = make_worker(INTERACTIVE, "bulk")

    def claim() -> list[Claim]:
        return worker.claim(9, [INTERACTIVE, "bulk"])

    (bulk,) = worker.claim(9, ["bulk"])
    assert claim() == []
    assert worker.held_back, "its hands are not empty"
    assert worker.finish([], [(bulk, {"done": 1})]) == [True]
    for id in ("poison", "neighbour"):
        push(f"bulk-{id}", queue="bulk")
        (alone,) = claim()
        assert (alone.job.id, alone.attempt) == (id, 3)
        assert claim() == []
        assert worker.held_back, "nothing else is claimed with it"
        assert worker.finish([], [(alone, {"done": 1})]) == [True]
    assert [one.job.id for one in claim()] == ["later", "bulk-poison", "bulk-neighbour"]
    assert not worker.held_back


def test_entries_of_jobs_that_are_gone_or_ended_are_only_removed(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    worker = make_worker()
    for job_id in ("gone", "ended", "twice"):
        push(job_id)
    claims = worker.claim(3, [INTERACTIVE])
    connection.delete("rq:job:gone")
    connection.hset("rq:job:ended", "status", "finished")
    # the same job is started a second time, by someone who lives
    connection.rpush("rq:queue:interactive", "twice")
    expire_leases(connection)
    (living,) = make_worker().claim(1, [INTERACTIVE])
    connection.zadd("rq:wip:interactive", {"nonsense": 1})
    taken = worker.take_over()
    assert (taken.requeued, taken.given_up) == (0, [])
    assert waiting(connection) == []
    left = connection.zrange("rq:wip:interactive", 0, -1)
    assert left == [living.execution.composite_key.encode()]
    assert not any(connection.exists(claim.execution.key) for claim in claims)


def test_rq_info_shows_the_worker_and_its_jobs(push: Push, make_worker: MakeWorker, redis_url: str) -> None:
    push("a")
    push("b")
    worker = make_worker()
    (claim,) = worker.claim(1, [INTERACTIVE])
    command = [str(Path(sys.executable).with_name("rq")), "info", "--raw", "--url", redis_url]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "queue interactive 1, 1 executing, 0 finished, 0 failed" in shown
    assert re.search(rf"worker {worker.name} .* busy interactive\. jobs: 0 finished, 0 failed", shown)
    assert worker.finish([], [(claim, {"done": 1})]) == [True]


def test_rq_info_and_dashboards_do_not_fail_the_jobs_of_a_dead_worker(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    job = push("a")
    dead, alive = make_worker(), make_worker()
    dead.claim(1, [INTERACTIVE])
    expire_leases(connection)
    queue = Queue(INTERACTIVE, connection=connection, serializer=JSONSerializer)
    assert queue.started_job_registry.count == 1
    clean_registries(queue)
    assert job.get_status() == JobStatus.STARTED
    assert alive.take_over().requeued == 1


def test_what_a_draining_worker_puts_back_is_in_front_in_order_and_does_not_count_as_an_attempt(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    for job_id in ("a", "b", "c", "d"):
        push(job_id)
    worker = make_worker()
    claims = worker.claim(3, [INTERACTIVE])
    assert worker.finish([], [(claims[1], {"done": 1})]) == [True]
    assert worker.put_back([claims[0], claims[2]]) == 2
    assert waiting(connection) == ["a", "c", "d"]
    assert claims[0].job.get_status() == JobStatus.QUEUED
    assert worker.executions == {}
    assert not connection.exists("rq:wip:interactive", worker.executions_key, claims[0].execution.key)
    assert [claim.attempt for claim in worker.claim(9, [INTERACTIVE])] == [1, 1, 1]


def test_nothing_is_put_back_when_nothing_is_in_hand(make_worker: MakeWorker) -> None:
    assert make_worker().put_back([]) == 0


def test_a_name_in_use_is_refused_and_a_dead_workers_name_is_free_at_once(
    make_worker: MakeWorker, connection: Redis
) -> None:
    worker = make_worker(name="one")
    connection.hset(worker.key, mapping={"hostname": "elsewhere", "pid": 1})
    with pytest.raises(ConfigError, match="MOODQ_WORKER_NAME"):
        make_worker(name="one")
    connection.hset(worker.key, "last_heartbeat", "2020-01-01T00:00:00.000000Z")
    assert make_worker(name="one").name == "one"


def test_a_stopped_worker_is_gone_from_rq_and_no_heartbeat_brings_it_back(
    make_worker: MakeWorker, connection: Redis
) -> None:
    worker = make_worker()
    assert [seen.name for seen in Worker.all(connection=connection)] == [worker.name]
    worker.stop()
    worker.beat()
    assert Worker.all(connection=connection) == []
    assert connection.hget(worker.key, "death") is not None


def test_an_id_that_ended_in_one_queue_and_is_sent_to_another_is_in_that_one_only(
    make_worker: MakeWorker, connection: Redis, redis_url: str
) -> None:
    worker = make_worker(INTERACTIVE, "bulk")
    with Client(redis_url) as client:
        client.submit("hello", id="a")
        (claim,) = worker.claim(1, [INTERACTIVE])
        assert worker.finish([], [(claim, {"done": 1})]) == [True]
        client.submit("hello", id="a", queue="bulk")
    assert connection.zrange("rq:finished:interactive", 0, -1) == []
    assert connection.lrange("rq:queue:bulk", 0, -1) == [b"a"]
