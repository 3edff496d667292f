"""Waiting for work: woken by a push, taking nothing; and RQ's own commands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest
from redis import Redis
from rq.command import send_shutdown_command
from rq.job import Job
from rq.suspension import resume, suspend

from moodq_config.names import BULK, INTERACTIVE
from moodq_worker.doorbell import Doorbell
from moodq_worker.rq_worker import BatchWorker

MakeWorker = Callable[..., BatchWorker]
Push = Callable[..., Job]

LIST = "rq:queue:interactive"


def later(act: Callable[[], object], delay_s: float = 0.2) -> threading.Timer:
    timer = threading.Timer(delay_s, act)
    timer.start()
    return timer


def calls(connection: Redis, command: str) -> int:
    """How often the server has run ``command``."""
    stats = connection.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})
    return int(stats["calls"])


def test_an_idle_worker_is_woken_by_a_push_long_before_its_time_is_up(
    push: Push, make_worker: MakeWorker
) -> None:
    worker = make_worker(INTERACTIVE, BULK)
    for queue in (INTERACTIVE, BULK):
        began = time.monotonic()
        timer = later(lambda queue=queue: push(f"job-{queue}", queue))  # type: ignore[misc]
        assert worker.wait_for_work(30)
        assert time.monotonic() - began < 10
        timer.join()
        assert len(worker.claim(5, [queue])) == 1


def test_waiting_neither_takes_nor_reorders(push: Push, make_worker: MakeWorker, connection: Redis) -> None:
    workers = [make_worker() for _ in range(3)]
    ids = [f"job-{number}" for number in range(7)]
    for job_id in ids:
        push(job_id)
    for _ in range(10):
        assert all(worker.wait_for_work(30) for worker in workers)
    assert connection.lrange(LIST, 0, -1) == [job_id.encode() for job_id in ids]


def test_all_waiting_workers_hear_of_one_push(push: Push, make_worker: MakeWorker) -> None:
    workers = [make_worker() for _ in range(3)]
    heard: list[bool] = []
    threads = [threading.Thread(target=lambda w=w: heard.append(w.wait_for_work(30))) for w in workers]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    push("a")
    for thread in threads:
        thread.join(30)
    assert heard == [True, True, True]


def test_only_the_queues_asked_for_wake_the_worker(push: Push, make_worker: MakeWorker) -> None:
    worker = make_worker(INTERACTIVE, BULK)
    push("a", BULK)
    assert not worker.wait_for_work(0.3, [INTERACTIVE])
    assert worker.wait_for_work(30, [BULK])


def test_a_wait_without_work_ends_in_time_and_without_many_commands(
    make_worker: MakeWorker, connection: Redis
) -> None:
    worker = make_worker()
    connection.config_resetstat()
    assert not worker.wait_for_work(0.5)
    assert calls(connection, "blmove") <= 1


def test_a_long_queue_costs_a_worker_that_does_not_wait_nothing(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    worker = make_worker()
    push("a")
    assert worker.wait_for_work(30)
    connection.config_resetstat()
    time.sleep(0.5)
    assert calls(connection, "blmove") == 0


def test_wake_ends_a_wait_also_when_it_comes_first(make_worker: MakeWorker) -> None:
    worker = make_worker()
    began = time.monotonic()
    timer = later(worker.wake)
    assert not worker.wait_for_work(30)
    timer.join()
    worker.wake()
    assert not worker.wait_for_work(30)
    assert time.monotonic() - began < 20


def test_the_doorbell_survives_lost_connections(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    worker = make_worker()
    timer = later(lambda: connection.client_kill_filter(_type="normal", skipme=True))
    second = later(lambda: push("a"), 0.6)
    assert worker.wait_for_work(30)
    timer.join()
    second.join()


def test_closing_ends_the_threads_at_once(connection: Redis) -> None:
    bell = Doorbell(connection, {INTERACTIVE: LIST})
    bell.start()
    waiter = threading.Thread(target=bell.wait, args=(30, [INTERACTIVE]))
    waiter.start()
    time.sleep(0.2)
    began = time.monotonic()
    bell.close()
    waiter.join(30)
    assert time.monotonic() - began < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("doorbell-")]


def test_rqs_shutdown_command_asks_for_a_drain_and_nonsense_is_ignored(
    make_worker: MakeWorker, connection: Redis
) -> None:
    worker = make_worker()
    asked = threading.Event()
    worker.on_shutdown = asked.set
    connection.publish(worker.pubsub_channel_name, b"\xff{")
    connection.publish(worker.pubsub_channel_name, b'["shutdown"]')
    connection.publish(worker.pubsub_channel_name, b'{"command": "stop-job", "job_id": "a"}')
    send_shutdown_command(connection, worker.name)
    assert asked.wait(30)


def test_rq_suspend_is_seen_and_shown(make_worker: MakeWorker, connection: Redis) -> None:
    worker = make_worker()
    assert not worker.suspended()
    suspend(connection)
    assert worker.suspended()
    assert connection.hget(worker.key, "state") == b"suspended"
    resume(connection)
    assert not worker.suspended()
    assert connection.hget(worker.key, "state") == b"idle"


def test_rqs_own_ways_to_run_a_job_are_closed(push: Push, make_worker: MakeWorker) -> None:
    push("a")
    worker = make_worker()
    (claim,) = worker.claim(1, [INTERACTIVE])
    with pytest.raises(NotImplementedError):
        worker.work(burst=True)
    with pytest.raises(NotImplementedError):
        worker.execute_job(claim.job, claim.queue)
    with pytest.raises(NotImplementedError):
        worker.perform_job(claim.job, claim.queue, claim.execution)
