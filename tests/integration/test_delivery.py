"""What a worker has in hand is neither lost nor held up: lost answers, refusals, a full server, two heirs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError, OutOfMemoryError
from rq.job import Job, JobStatus, Retry

from chaos.servers import Sentinels, Server
from moodq_config.errors import ErrorCode, ModelError, QueueFull
from moodq_config.names import INTERACTIVE, result_key
from moodq_config.settings import load_settings
from moodq_producer import AsyncClient, Client
from moodq_worker.connection import connect, passing
from moodq_worker.rq_worker import BatchWorker, NotWritten

MakeWorker = Callable[..., BatchWorker]
Push = Callable[..., Job]
Start = Callable[..., Any]
WAIT_S = 60.0

#: Where each job is, in one atomic look: ids in the list, and in the started registry.
_LOOK = "return {redis.call('LRANGE', KEYS[1], 0, -1), redis.call('ZRANGE', KEYS[2], 0, -1)}"
_CLAIM_FOR_EVER = """
import sys
from redis import Redis
from moodq_worker.rq_worker import BatchWorker
worker = BatchWorker(["interactive"], connection=Redis.from_url(sys.argv[1]), name=sys.argv[2], lease_s=0.2,
                     max_attempts=10**6, result_ttl_s=60, failure_ttl_s=60)
while True:
    worker.claim(3, ["interactive"])
    worker.take_over()
"""


def until(condition: Callable[[], Any], timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the awaited state did not come"
        time.sleep(0.05)


@pytest.fixture
def full(connection: Redis) -> Iterator[Callable[[bool], None]]:
    """Fills the server's memory, in its own eyes."""

    def set_full(yes: bool) -> None:
        connection.config_set("maxmemory", "1" if yes else "0")

    yield set_full
    set_full(False)


def test_a_job_is_in_its_list_or_registered_at_every_moment_while_claimers_are_killed(
    push: Push, redis_url: str, connection: Any
) -> None:
    ids = {f"job-{number}" for number in range(30)}
    for id in sorted(ids):
        push(id)
    look = connection.register_script(_LOOK)
    looks = deaths = 0
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        claimers = [
            subprocess.Popen([sys.executable, "-c", _CLAIM_FOR_EVER, redis_url, f"claimer-{deaths}-{number}"])
            for number in range(2)
        ]
        again = time.monotonic() + 1.0
        while time.monotonic() < again:
            waiting, started = look(["rq:queue:interactive", "rq:wip:interactive"])
            places = [one.decode() for one in waiting] + [one.decode().partition(":")[0] for one in started]
            assert sorted(places) == sorted(ids), "a job was nowhere, or in two places"
            looks += 1
        for claimer in claimers:
            claimer.kill()
            assert claimer.wait() == -signal.SIGKILL
            deaths += 1
    assert looks > 300
    assert deaths >= 4


def test_two_workers_that_take_over_at_once_put_each_job_back_once(
    push: Push, make_worker: MakeWorker, connection: Any
) -> None:
    ids = [f"job-{number}" for number in range(40)]
    for id in ids:
        push(id)
    make_worker().claim(len(ids), [INTERACTIVE])
    for member in connection.zrange("rq:wip:interactive", 0, -1):
        connection.zincrby("rq:wip:interactive", -100.0, member)
    heirs = [make_worker() for _ in range(4)]
    ready = threading.Barrier(len(heirs))
    counts: list[int] = []

    def take(heir: BatchWorker) -> None:
        ready.wait()
        counts.append(heir.take_over().requeued)

    threads = [threading.Thread(target=take, args=(heir,)) for heir in heirs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(counts) == len(ids)
    waiting = [one.decode() for one in connection.lrange("rq:queue:interactive", 0, -1)]
    assert sorted(waiting) == sorted(ids)


def test_a_claim_whose_answer_was_lost_is_given_back_and_counts_as_no_attempt(
    push: Push, make_worker: MakeWorker, connection: Any
) -> None:
    worker = make_worker(INTERACTIVE, "bulk")
    push("heard", queue="bulk")
    (heard,) = worker.claim(1, ["bulk"])
    push("unheard")
    worker.claim(1, [INTERACTIVE])
    worker.executions = {heard.execution.id: heard.execution}  # the other answer never came
    worker.beat()
    assert connection.zcard("rq:wip:interactive") == 1, "an answer may still be under way"
    worker.beat()
    assert connection.lrange("rq:queue:interactive", 0, -1) == [b"unheard"]
    assert connection.zcard("rq:wip:bulk") == 1
    assert [claim.attempt for claim in worker.claim(1, [INTERACTIVE])] == [1]


def test_what_a_dead_worker_of_the_same_name_left_counts_as_an_attempt(
    push: Push, make_worker: MakeWorker, connection: Any
) -> None:
    push("a")
    dead = make_worker(name="fixed")
    dead.claim(1, [INTERACTIVE])
    connection.delete(dead.key)
    worker = make_worker(name="fixed")
    worker.beat()
    worker.beat()
    assert connection.zcard("rq:wip:interactive") == 1
    assert connection.llen("rq:queue:interactive") == 0


def test_leases_are_kept_when_redis_has_no_memory_left(
    push: Push, make_worker: MakeWorker, connection: Any, full: Callable[[bool], None]
) -> None:
    push("a")
    worker = make_worker()
    worker.claim(1, [INTERACTIVE])
    connection.zincrby("rq:wip:interactive", -100.0, connection.zrange("rq:wip:interactive", 0, 0)[0])
    full(True)
    with pytest.raises(OutOfMemoryError):
        worker.beat()  # its own entry needs memory, the leases come first
    assert worker._scripts.take_over(["rq:queue:interactive", "rq:wip:interactive"], limit=9) == (0, [])


def test_a_failed_job_whose_end_redis_did_not_take_stays_in_hand_with_its_retries(
    push: Push, make_worker: MakeWorker, full: Callable[[bool], None]
) -> None:
    job = push("a", retry=Retry(max=2))
    worker = make_worker()
    (claim,) = worker.claim(1, [INTERACTIVE])
    error = ModelError("broken", code=ErrorCode.ENGINE_FAILED)
    full(True)
    for _ in range(2):
        with pytest.raises((NotWritten, OutOfMemoryError)):
            worker.fail(claim, error, retry=False)
        assert list(worker.executions) == [claim.execution.id]
    full(False)
    assert worker.fail(claim, error, retry=False)
    assert job.get_status() == JobStatus.FAILED


def test_a_script_that_redis_refuses_for_good_fails_its_jobs_and_the_worker_goes_on(
    connection: Any, redis_url: str, start_fake_worker: Start
) -> None:
    worker = start_fake_worker()
    connection.set("rq:finished:bulk", "somebody's own")  # a registry that nothing can be added to
    with Client(redis_url) as client:
        refused = [
            ticket
            for number in range(3)
            for ticket in client.submit_many([{"id": f"refused-{number}", "text": "a parcel"}], queue="bulk")
        ]
        for ticket in refused:
            ticket.wait(WAIT_S)
        fine = client.submit("a parcel", id="fine").wait(WAIT_S)
    assert fine.status == "done"
    until(lambda: connection.zcard("rq:failed:bulk") == 3)
    assert connection.zcard("rq:wip:bulk") == 0
    assert "refused for good" in worker.log.read_text()


def test_jobs_claimed_before_redis_went_away_are_run_when_it_is_back(
    tmp_path: Path, start_process: Callable[..., Any]
) -> None:
    server = Server(tmp_path / "server").start()
    try:
        worker = start_process(server.url)
        with Client(server.url) as client:
            client.submit("a parcel [[sleep 1]]", id="running")
            until(lambda: server.client.zcard("rq:wip:interactive") == 1)
            server.kill()
            time.sleep(3)
            server.start()
            assert client.submit("a parcel", id="after").wait(WAIT_S).status == "done"
            found = client.result("running")
        assert found is not None
        assert (found.status, worker.poll()) == ("done", None)
    finally:
        server.close()


def test_a_drain_without_redis_ends_in_time_with_a_clear_log(
    tmp_path: Path, start_process: Callable[..., Any]
) -> None:
    server = Server(tmp_path / "server").start()
    worker = start_process(server.url, MOODQ_DRAIN_TIMEOUT_S="1")
    with Client(server.url) as client:
        client.submit("a parcel [[sleep 1]]", id="running")
        until(lambda: server.client.zcard("rq:wip:interactive") == 1)
    server.close()
    worker.terminate()
    assert worker.wait(40) == 1
    log = (tmp_path / "worker.log").read_text()
    assert "stopped with results that Redis did not take" in log
    assert "Traceback" not in log


@pytest.fixture
def start_process(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts a worker on a server of the test's own; returns when it is registered."""
    started: list[subprocess.Popen[bytes]] = []

    def start(url: str, **settings: str) -> subprocess.Popen[bytes]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
        env = inherited | {
            "MOODQ_ENGINE": "fake",
            "MOODQ_REDIS_URL": url,
            "MOODQ_METRICS_PORT": "0",
            "MOODQ_LEASE_S": "2",
            "MOODQ_DATA_DIR": str(tmp_path / "data"),
            **settings,
        }
        with (tmp_path / "worker.log").open("ab") as output:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "moodq_worker"],
                    env=env,
                    cwd=tmp_path,
                    stdout=output,
                    stderr=output,
                )
            )
        client = connect(load_settings(redis_url=url))
        until(lambda: client.exists("rq:workers"))
        client.close()
        return started[-1]

    yield start
    for process in started:
        process.terminate()
        process.wait(WAIT_S)


async def test_both_clients_and_a_worker_find_the_master_through_sentinels_with_a_password(
    tmp_path: Path, start_process: Callable[..., Any]
) -> None:
    group = Sentinels(tmp_path / "group", password="a-password")
    try:
        start_process(group.url)
        with Client(group.url) as client:
            assert client.submit("a parcel", id="sync").wait(WAIT_S).status == "done"
        async with AsyncClient(group.url) as other:
            ticket = await other.submit("a parcel", id="async")
            assert (await ticket.wait(WAIT_S)).status == "done"
        log = (tmp_path / "worker.log").read_text()
        assert "a-password" not in log
    finally:
        group.close()


def test_a_full_server_is_told_as_a_full_queue(
    redis_url: str, connection: Any, full: Callable[[bool], None]
) -> None:
    settings = load_settings(redis_url=redis_url, max_redis_mb=0)  # no look at the memory beforehand
    with Client(settings) as client:
        full(True)
        with pytest.raises(QueueFull, match="MiB"):
            client.submit("a parcel", id="a")
        timer = threading.Timer(0.5, full, (False,))
        timer.start()
        client.submit("a parcel", id="a", on_full="wait", full_timeout=WAIT_S)
        timer.join()
    assert connection.lrange("rq:queue:interactive", 0, -1) == [b"a"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (("EVAL", "return redis.error_reply('READONLY You can not write')", 0), True),
        (("EVAL", "return redis.error_reply('LOADING the dataset')", 0), True),
        (("EVAL", "return redis.error_reply('MISCONF errors writing to disk')", 0), True),
        (("EVAL", "return redis.error_reply('UNBLOCKED force unblock')", 0), True),
        (("EVAL", "return redis.error_reply('NOREPLICAS not enough')", 0), True),
        (("EVAL", "return redis.error_reply('MASTERDOWN Link with MASTER is down')", 0), True),
        (("EVAL", "redis.call('SET', 'x', 1) redis.call('ZADD', 'x', 1, 'a')", 0), False),
        (("EVAL", "error('a fault of the script')", 0), False),
        (("NONSENSE",), False),
    ],
)
def test_what_passes_is_told_from_what_is_refused_for_good(
    connection: Any, command: tuple[Any, ...], expected: bool
) -> None:
    with pytest.raises(Exception) as caught:
        connection.execute_command(*command)
    assert passing(caught.value) is expected


def test_a_connection_that_breaks_passes() -> None:
    assert passing(ConnectionError("gone"))


def test_a_stopped_worker_that_comes_back_overwrites_nothing(
    connection: Any, redis_url: str, start_fake_worker: Start
) -> None:
    slow = start_fake_worker()
    with Client(redis_url) as client:
        ticket = client.submit("a parcel [[sleep 1]]", id="held")
        until(lambda: connection.zcard("rq:wip:interactive") == 1)
        slow.process.send_signal(signal.SIGSTOP)
        try:
            heir = start_fake_worker()
            result = ticket.wait(WAIT_S)
        finally:
            slow.process.send_signal(signal.SIGCONT)
        assert (result.worker, result.attempt) == (heir.name, 2)
        before = connection.get(result_key("held")), connection.xlen("moodq:events:held")
        until(lambda: "no longer this worker's" in slow.log.read_text())
        after = connection.get(result_key("held")), connection.xlen("moodq:events:held")
        assert before == after
        assert json.loads(after[0])["worker"] == heir.name
        assert client.submit("another", id="next").wait(WAIT_S).status == "done"


def test_a_failed_result_stands_when_the_worker_died_before_the_end_of_its_job(
    push: Push, connection: Any, start_fake_worker: Start
) -> None:
    told = json.dumps(
        {"v": 1, "id": "told", "status": "failed", "results": {}, "worker": "dead", "attempt": 1,
         "error": {"code": "engine_failed", "message": "as it was"}, "finished_at": "then"}
    )  # fmt: skip
    connection.set(result_key("told"), told, ex=600)
    items = [{"id": id, "text": "a parcel", "tasks": ["sentiment"]} for id in ("told", "fresh")]
    data = json.dumps(["moodq.run", None, [{"v": 1, "items": items}], {}]).encode()
    both = push("both", data=data)
    alone = push("alone", data=json.dumps(["moodq.run", None, [{"v": 1, "items": items[:1]}], {}]).encode())
    for job in (both, alone):
        connection.hset(job.key, "moodq_attempts", 1)
    start_fake_worker()
    until(lambda: both.get_status() == JobStatus.FINISHED and alone.get_status() == JobStatus.FAILED)
    assert connection.get(result_key("told")) == told.encode()
    assert not connection.exists("moodq:events:told")
    assert json.loads(connection.get(result_key("fresh")))["status"] == "done"
