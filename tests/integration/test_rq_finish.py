"""Finishing: RQ's registries, results and counters end as RQ itself leaves them."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from rq import Repeat
from rq.job import Job, JobStatus, Retry
from rq.queue import Queue
from rq.rate_limit import RateLimit
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer
from rq.webhook import Webhook
from rq.worker import SimpleWorker

from moodq_config.errors import BadInput, ErrorCode, ModelError
from moodq_config.names import FAILURE_FIELD, INTERACTIVE, events_key, result_key
from moodq_worker.rq_claim import Claim
from moodq_worker.rq_finish import RESULTS_AT_ONCE, WrittenResult
from moodq_worker.rq_job import read_payload
from moodq_worker.rq_worker import BatchWorker

MakeWorker = Callable[..., BatchWorker]
Push = Callable[..., Job]
Keyspace = Callable[..., dict[str, Any]]


def run_by_rq(connection: Any) -> tuple[str, str]:
    """Let RQ's own worker run the one job that waits; returns the worker's name and the execution's id."""
    queue = Queue(INTERACTIVE, connection=connection, serializer=JSONSerializer)
    worker = SimpleWorker([queue], connection=connection, serializer=JSONSerializer)
    worker.register_birth()  # type: ignore[no-untyped-call]
    found = Queue.dequeue_any([queue], None, connection=connection, serializer=JSONSerializer)
    assert found is not None
    worker.execute_job(*found)
    (_, fields), *_ = connection.xrange(f"rq:results:{found[0].id}")
    return worker.name, fields[b"execution_id"].decode()


def without_worker_ttl(found: dict[str, Any]) -> dict[str, Any]:
    """How long a silent worker is shown is a setting of the worker, not the fate of its job."""
    content, ttl_minutes = found["rq:worker:WORKER"]
    assert ttl_minutes
    return {**found, "rq:worker:WORKER": content}


def succeed(worker: BatchWorker, claim: Claim, value: dict[str, Any]) -> bool:
    (ours,) = worker.finish([], [(claim, value)])
    return ours


@pytest.mark.parametrize(
    "options",
    [
        {"result_ttl": 700, "failure_ttl": 600},
        {},
        {"meta": {"ours": "说"}, "retry": Retry(max=3), "timeout": 60},
        {"repeat": Repeat(times=1)},
        {"rate_limit": RateLimit("ours", 1)},
        {"dependents": 2},
    ],
    ids=["ttls", "defaults", "meta-and-retries", "repeat", "rate-limit", "dependents"],
)
def test_a_job_that_succeeded_is_left_as_rq_leaves_it(
    connection: Redis,
    push: Push,
    make_worker: MakeWorker,
    keyspace: Keyspace,
    options: dict[str, Any],
) -> None:
    def pushed() -> Job:
        plain = {name: value for name, value in options.items() if name != "dependents"}
        first = push("job-1", function="builtins.dict", **plain)
        for number in range(options.get("dependents", 0)):
            push(f"later-{number}", depends_on=first)
        return first

    payload = pushed().args[0]
    name, execution = run_by_rq(connection)
    expected = keyspace(WORKER=name, EXECUTION=execution)

    connection.flushall()
    pushed()
    worker = make_worker()
    (claim,) = worker.claim(1, [INTERACTIVE])
    assert succeed(worker, claim, payload)
    actual = keyspace(WORKER=worker.name, EXECUTION=claim.execution.id)
    assert without_worker_ttl(actual) == without_worker_ttl(expected)
    assert worker.executions == {}


def test_results_and_many_jobs_are_written_in_one_round_trip(
    connection: Any, push: Push, make_worker: MakeWorker
) -> None:
    ids = [f"job-{number}" for number in range(30)]
    for id in ids:
        push(id)
    push("waited-for", depends_on=None)
    push("later", depends_on=Job.fetch("waited-for", connection, serializer=JSONSerializer))
    worker = make_worker()
    claims = worker.claim(40, [INTERACTIVE])
    results = [
        WrittenResult(id, json.dumps({"id": id}).encode(), claim)
        for id, claim in zip(ids, claims, strict=False)
    ]
    worker.finish([], [])  # the script is known to the server from here on
    before = commands_seen(connection)
    jobs = [(claim, {"done": 1}) for claim in claims]
    assert worker.finish(results, jobs[:30]) == [True] * 30
    assert commands_seen(connection) - before == 2  # the script and the INFO that counts
    assert worker.finish([], jobs[30:]) == [True]
    assert [claim.job.id for claim in worker.claim(5, [INTERACTIVE])] == ["later"]
    assert connection.get(result_key("job-29")) == b'{"id": "job-29"}'
    assert connection.xrange(events_key("job-29"))[0][1][b"event"] == b"done"
    assert connection.zcard("rq:finished:interactive") == 31
    worker.refresh()  # type: ignore[no-untyped-call]
    assert worker.successful_job_count == 31


def test_more_results_than_fit_one_script_are_all_written(
    connection: Redis, push: Push, make_worker: MakeWorker
) -> None:
    push("a")
    worker = make_worker()
    (claim,) = worker.claim(1, [INTERACTIVE])
    results = [WrittenResult(f"item-{n}", b"{}", claim) for n in range(2 * RESULTS_AT_ONCE + 1)]
    assert worker.finish(results, [(claim, {"done": len(results)})]) == [True]
    assert len(connection.keys(result_key("*"))) == len(results)


@pytest.mark.parametrize("key", [result_key("a"), events_key("a"), "rq:results:a", "rq:job:a"])
def test_a_key_that_a_stranger_made_one_of_another_type_holds_nothing_up(
    connection: Redis, push: Push, make_worker: MakeWorker, key: str
) -> None:
    push("a")
    push("b")
    worker = make_worker()
    claims = worker.claim(2, [INTERACTIVE])
    connection.delete(key)
    connection.sadd(key, "not what it should be")
    results = [WrittenResult(claim.job.id, b"{}", claim) for claim in claims]
    assert worker.finish(results, [(claim, {"done": 1}) for claim in claims]) == [True, True]
    assert connection.get(result_key("a")) == connection.get(result_key("b")) == b"{}"
    assert connection.zcard("rq:finished:interactive") == 2


def test_a_worker_that_was_only_slow_does_not_overwrite_its_successors_result(
    connection: Redis, push: Push, make_worker: MakeWorker
) -> None:
    push("a")
    push("mine")
    slow, other = make_worker(), make_worker()
    first, mine = slow.claim(2, [INTERACTIVE])
    connection.zadd("rq:wip:interactive", {first.execution.composite_key: 1})
    assert other.take_over().requeued == 1
    (theirs,) = other.claim(1, [INTERACTIVE])
    results = [WrittenResult("a", b'{"by":"slow"}', first), WrittenResult("mine", b"{}", mine)]
    assert slow.finish(results, [(first, {"done": 1}), (mine, {"done": 1})]) == [False, True]
    assert connection.get(result_key("a")) is None, "before its successor has finished"
    assert other.finish([WrittenResult("a", b'{"by":"other"}', theirs)], [(theirs, {"done": 1})]) == [True]
    slow.finish(results[:1], [])
    assert connection.get(result_key("a")) == b'{"by":"other"}', "and after"
    assert connection.xlen(events_key("a")) == 1
    assert connection.get(result_key("mine")) == b"{}"


@pytest.mark.parametrize(
    ("stored", "stands"),
    [
        (b'{"v":1,"id":"a","status":"done"}', True),
        (b'{"v":1,"id":"a","status":"failed","error":{"code":"cancelled"}}', True),
        (b'{"v":1,"id":"a","status":"failed","error":{"code":"engine_failed"}}', False),
        (b"not JSON", False),
    ],
)
def test_the_outcome_of_an_item_that_two_jobs_carry_stands_once_it_is_there(
    connection: Redis, push: Push, make_worker: MakeWorker, stored: bytes, stands: bool
) -> None:
    push("a")
    worker = make_worker()
    (claim,) = worker.claim(1, [INTERACTIVE])
    connection.set(result_key("a"), stored)
    assert worker.finish([WrittenResult("a", b"{}", claim)], [(claim, {"done": 1})]) == [True]
    assert connection.get(result_key("a")) == (stored if stands else b"{}")
    assert connection.xlen(events_key("a")) == (0 if stands else 1)


def commands_seen(connection: Any) -> int:
    """Commands that clients sent, those inside scripts left out."""
    calls = connection.info("commandstats")
    sent = ("cmdstat_evalsha", "cmdstat_info", "cmdstat_exec", "cmdstat_watch", "cmdstat_get")
    return sum(calls.get(name, {}).get("calls", 0) for name in sent)


def test_a_job_that_failed_is_left_as_rq_leaves_it_with_code_and_message_for_the_traceback(
    connection: Redis, push: Push, make_worker: MakeWorker, keyspace: Keyspace
) -> None:
    options: dict[str, Any] = {"function": "builtins.int", "result_ttl": 700, "failure_ttl": 600}
    push("job-1", **options)
    name, execution = run_by_rq(connection)
    expected = keyspace(WORKER=name, EXECUTION=execution)

    connection.flushall()
    push("job-1", **options)
    worker = make_worker()
    (claim,) = worker.claim(1, [INTERACTIVE])
    assert worker.fail(claim, BadInput("text is empty", code=ErrorCode.EMPTY_TEXT), retry=False)
    actual = keyspace(WORKER=worker.name, EXECUTION=claim.execution.id)
    told = actual["rq:job:job-1"][0].pop(FAILURE_FIELD)
    assert json.loads(told) == {"code": "empty_text", "message": "text is empty", "attempts": 1}
    assert without_worker_ttl(actual) == without_worker_ttl(expected)
    result = claim.job.latest_result()
    assert result is not None
    assert result.exc_string == "empty_text: text is empty"


def test_a_job_without_ttls_of_its_own_gets_those_of_the_settings(
    connection: Redis, push: Push, make_worker: MakeWorker
) -> None:
    worker = make_worker(result_ttl_s=100, failure_ttl_s=200)
    push("good")
    push("bad")
    good, bad = worker.claim(2, [INTERACTIVE])
    succeed(worker, good, {"done": 1})
    worker.fail(bad, ModelError("broken"), retry=False)
    assert 90 < connection.ttl("rq:job:good") <= 100
    assert 90 < connection.ttl("rq:results:good") <= 100
    assert 190 < connection.ttl("rq:job:bad") <= 200
    assert 190 < connection.ttl("rq:results:bad") <= 200


def test_a_producer_of_plain_rq_reads_the_return_value(push: Push, make_worker: MakeWorker) -> None:
    job = push("a")
    worker = make_worker()
    (claim,) = worker.claim(1, [INTERACTIVE])
    succeed(worker, claim, {"done": 1, "说": "好"})
    assert job.return_value() == {"done": 1, "说": "好"}
    assert job.get_status() == JobStatus.FINISHED
    worker.refresh()  # type: ignore[no-untyped-call]
    assert worker.successful_job_count == 1


def test_a_job_with_retries_left_is_enqueued_again_until_none_is_left(
    push: Push, make_worker: MakeWorker
) -> None:
    job = push("a", retry=Retry(max=1))
    worker = make_worker()
    (first,) = worker.claim(1, [INTERACTIVE])
    assert first.job.should_retry
    assert worker.fail(first, ModelError("the model failed"), retry=True)
    assert job.get_status() == JobStatus.QUEUED
    (second,) = worker.claim(1, [INTERACTIVE])
    assert (second.job.should_retry, second.attempt) == (False, 2)
    assert worker.fail(second, ModelError("the model failed"), retry=True)
    assert job.get_status() == JobStatus.FAILED
    assert second.queue.failed_job_registry.get_job_ids() == ["a"]


def test_an_error_that_a_retry_cannot_cure_uses_none(push: Push, make_worker: MakeWorker) -> None:
    job = push("a", retry=Retry(max=5))
    worker = make_worker()
    (claim,) = worker.claim(1, [INTERACTIVE])
    assert worker.fail(claim, BadInput("wrong"), retry=False)
    assert job.get_status() == JobStatus.FAILED
    assert worker.claim(1, [INTERACTIVE]) == []


def test_rq_requeue_brings_a_failed_job_back_with_all_its_attempts(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    push("a")
    worker = make_worker()
    (claim,) = worker.claim(1, [INTERACTIVE])
    worker.fail(claim, ModelError("broken"), retry=False)
    FailedJobRegistry(INTERACTIVE, connection=connection, serializer=JSONSerializer).requeue("a")
    (again,) = worker.claim(1, [INTERACTIVE])
    assert again.attempt == 1
    assert read_payload(again.job, max_items=5) == read_payload(claim.job, max_items=5)
    assert succeed(worker, again, {"done": 1})


def test_a_job_that_another_worker_took_over_is_dropped_without_a_trace(
    push: Push, make_worker: MakeWorker, connection: Redis, keyspace: Keyspace
) -> None:
    push("a")
    slow, other = make_worker(), make_worker()
    (claim,) = slow.claim(1, [INTERACTIVE])
    expire_leases(connection)
    assert other.take_over().requeued == 1
    (theirs,) = other.claim(1, [INTERACTIVE])
    before = keyspace()
    assert succeed(slow, claim, {"done": 1}) is False
    assert slow.fail(claim, ModelError("late"), retry=True) is False
    assert slow.put_back([claim]) == 0
    assert keyspace() == before
    assert slow.executions == {}
    assert succeed(other, theirs, {"done": 1})


def test_a_cancelled_job_stays_cancelled(push: Push, make_worker: MakeWorker) -> None:
    job = push("a")
    worker = make_worker()
    (claim,) = worker.claim(1, [INTERACTIVE])
    job.cancel()
    assert succeed(worker, claim, {"done": 1}) is False
    assert job.get_status() == JobStatus.CANCELED


def test_a_job_to_be_forgotten_at_once_leaves_nothing(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    push("a", result_ttl=0)
    worker = make_worker()
    (claim,) = worker.claim(1, [INTERACTIVE])
    assert succeed(worker, claim, {"done": 1})
    worker.beat()
    assert connection.keys("*:a*") == []


def test_dependents_start_when_the_job_they_wait_for_is_done(push: Push, make_worker: MakeWorker) -> None:
    first = push("first")
    push("second", depends_on=first)
    worker = make_worker()
    (claim,) = worker.claim(5, [INTERACTIVE])
    assert succeed(worker, claim, {"done": 1})
    assert [claim.job.id for claim in worker.claim(5, [INTERACTIVE])] == ["second"]


def test_expired_entries_leave_the_registries_of_ended_jobs(
    push: Push, make_worker: MakeWorker, connection: Redis
) -> None:
    worker = make_worker()
    connection.zadd("rq:finished:interactive", {"old": 1})
    connection.zadd("rq:failed:interactive", {"old": 1})
    worker.take_over()
    assert not connection.exists("rq:finished:interactive", "rq:failed:interactive")


@pytest.fixture
def requests_seen() -> Any:
    """An HTTP server; yields its URL and the list of requests it got."""
    seen: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_response(200)
            self.end_headers()

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", seen
        server.shutdown()
        thread.join()


def test_callbacks_and_webhooks_of_a_job_never_run(
    push: Push,
    make_worker: MakeWorker,
    connection: Redis,
    requests_seen: tuple[str, list[str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url, seen = requests_seen
    touched = tmp_path / "touched"
    (tmp_path / "moodq_canary.py").write_text(f"open({str(touched)!r}, 'w').close()\ndef run(*_): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    hooks = [Webhook(url, "finished"), Webhook(url, "failed")]
    for job_id in ("good", "bad"):
        push(job_id, function="moodq_canary.run", webhooks=hooks)
        for kind in ("success", "failure"):
            connection.hset(f"rq:job:{job_id}", f"{kind}_callback_name", "moodq_canary.run")
    worker = make_worker()
    good, bad = worker.claim(2, [INTERACTIVE])
    assert succeed(worker, good, {"done": 1})
    assert worker.fail(bad, ModelError("broken"), retry=False)
    assert not touched.exists()
    assert seen == []
    assert {Job.fetch(id, connection).get_status() for id in ("good", "bad")} == {"finished", "failed"}


def expire_leases(connection: Any) -> None:
    """Let time pass for the started jobs: their leases end now."""
    for member in connection.zrange("rq:wip:interactive", 0, -1):
        connection.zincrby("rq:wip:interactive", -100.0, member)
