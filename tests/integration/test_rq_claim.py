"""Claiming: the same entries in Redis as RQ makes, in one step, each job once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer
from rq.worker import SimpleWorker

from moodq_config.errors import ErrorCode
from moodq_config.names import BULK, INTERACTIVE
from moodq_worker.rq_worker import BatchWorker

MakeWorker = Callable[..., BatchWorker]
Push = Callable[..., Job]
Keyspace = Callable[..., dict[str, Any]]


def test_a_claimed_job_looks_in_redis_like_one_that_rq_itself_has_started(
    connection: Redis, push: Push, make_worker: MakeWorker, keyspace: Keyspace
) -> None:
    push("job-1", ttl=300)
    theirs = SimpleWorker(
        [Queue(INTERACTIVE, connection=connection, serializer=JSONSerializer)], connection=connection
    )
    theirs.register_birth()  # type: ignore[no-untyped-call]
    found = Queue.dequeue_any(theirs.queues, None, connection=connection, serializer=JSONSerializer)
    assert found is not None
    execution = theirs.prepare_execution(found[0])
    theirs.prepare_job_execution(found[0], remove_from_intermediate_queue=True)
    expected = keyspace(WORKER=theirs.name, EXECUTION=execution.id)

    connection.flushall()
    push("job-1", ttl=300)
    worker = make_worker()
    (claim,) = worker.claim(1, [INTERACTIVE])
    actual = keyspace(WORKER=worker.name, EXECUTION=claim.execution.id)

    assert actual["rq:job:job-1"][0].pop("moodq_attempts") == "1"
    assert {key: content for key, (content, _) in actual.items()} == {
        key: content for key, (content, _) in expected.items()
    }
    expiring = {key for key, (_, ttl) in expected.items() if ttl is not None}
    assert {key for key, (_, ttl) in actual.items() if ttl is not None} == expiring


def test_a_claim_takes_from_the_heads_in_the_given_order_of_queues_and_not_more_than_asked(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    for number in range(3):
        push(f"b{number}", BULK)
        push(f"i{number}", INTERACTIVE)
    worker = make_worker(INTERACTIVE, BULK)
    assert worker.claim(0, [INTERACTIVE]) == []
    assert [claim.job.id for claim in worker.claim(4, [INTERACTIVE, BULK])] == ["i0", "i1", "i2", "b0"]
    assert [claim.job.id for claim in worker.claim(1, [BULK, INTERACTIVE])] == ["b1"]
    assert [claim.queue.name for claim in worker.claim(9, [BULK, INTERACTIVE])] == [BULK]
    assert worker.claim(9, [INTERACTIVE, BULK]) == []
    assert worker.current_execution_count == len(worker.executions) == 6


def test_a_claim_tells_attempt_and_times(push: Push, make_worker: MakeWorker) -> None:
    job = push("a")
    assert job.enqueued_at is not None
    (claim,) = make_worker().claim(5, [INTERACTIVE])
    assert claim.attempt == 1
    assert claim.error is None
    assert claim.enqueued_at == pytest.approx(job.enqueued_at.timestamp(), abs=0.001)
    assert claim.enqueued_at <= claim.claimed_at <= claim.enqueued_at + 60


def test_ids_whose_job_is_gone_are_skipped(push: Push, make_worker: MakeWorker, connection: Redis) -> None:
    push("gone").delete(remove_from_queue=False)
    connection.rpush("rq:queue:interactive", "never-was")
    connection.set("rq:job:not-a-hash", "x")
    connection.rpush("rq:queue:interactive", "not-a-hash")
    push("here")
    assert [claim.job.id for claim in make_worker().claim(1, [INTERACTIVE])] == ["here"]


@pytest.mark.parametrize("bad_id", [b"a:b", b"a.b", b"\xff\xfe", b"x" * 10 + b"\n"])
def test_an_unusable_job_id_is_refused_and_does_not_stop_the_queue(
    push: Push, make_worker: MakeWorker, connection: Redis, bad_id: bytes
) -> None:
    connection.hset(b"rq:job:" + bad_id, mapping={"data": "x"})
    connection.rpush("rq:queue:interactive", bad_id)
    push("good")
    worker = make_worker()
    bad, good = worker.claim(5, [INTERACTIVE])
    assert bad.error is not None
    assert bad.error.code == ErrorCode.INVALID_FIELD
    assert good.error is None
    assert worker.fail(bad, bad.error, retry=False) is False
    assert 0 < connection.ttl(b"rq:job:" + bad_id) <= 600
    assert [job_id for job_id, _ in good.queue.started_job_registry.get_job_and_execution_ids()] == ["good"]


def test_a_hash_that_cannot_be_read_is_claimed_with_its_error_and_can_be_failed(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    push("a")
    connection.hset("rq:job:a", mapping={"timeout": "soon", "origin": "elsewhere"})
    worker = make_worker()
    (claim,) = worker.claim(1, [INTERACTIVE])
    assert claim.error is not None
    assert claim.error.code == ErrorCode.BROKEN_JSON
    assert worker.fail(claim, claim.error, retry=False)
    assert claim.queue.failed_job_registry.get_job_ids() == ["a"]
    assert connection.zcard(claim.queue.started_job_registry.key) == 0


def test_a_damaged_attempt_count_does_not_lose_the_job(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    push("a")
    connection.hset("rq:job:a", "moodq_attempts", "many")
    (claim,) = make_worker().claim(1, [INTERACTIVE])
    assert claim.attempt == 1


def test_two_workers_never_claim_the_same_job_and_leave_none(push: Push, make_worker: MakeWorker) -> None:
    ids = {f"job-{number}" for number in range(200)}
    for job_id in ids:
        push(job_id)
    workers = [make_worker() for _ in range(4)]
    claimed: list[list[str]] = [[] for _ in workers]
    begin = threading.Barrier(len(workers))

    def work(number: int) -> None:
        begin.wait()
        while claims := workers[number].claim(3, [INTERACTIVE]):
            claimed[number] += [claim.job.id for claim in claims]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(workers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(job_id for mine in claimed for job_id in mine) == sorted(ids)


def test_jobs_can_be_claimed_when_redis_has_no_memory_left(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    for number in range(3):
        push(f"job-{number}")
    worker = make_worker()
    connection.config_set("maxmemory", "1")
    try:
        claims = worker.claim(5, [INTERACTIVE])
    finally:
        connection.config_set("maxmemory", "0")
    assert len(claims) == 3
    assert connection.zcard(claims[0].queue.started_job_registry.key) == 3
