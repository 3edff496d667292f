"""The sync client against real servers. Where no worker runs, a test writes results as a worker does."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.utils import as_text

from moodq_config.contracts import Result, ResultStatus
from moodq_config.errors import BadInput, ConfigError, ErrorCode, QueueFull, Unavailable, WaitTimeout
from moodq_config.names import events_key, result_key
from moodq_config.settings import embedded_url_file, load_settings
from moodq_producer import Client
from moodq_producer.waiting import WINDOW

LONG_S = 60.0


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(redis_url) as client:
        yield client


def finish(connection: Redis, *ids: str) -> None:
    """Write results as a worker does: key and event in one transaction."""
    for id in ids:
        result = Result(id=id, status=ResultStatus.DONE, worker="hand", attempt=1, finished_at="now")
        body = result.model_dump_json(exclude_none=True)
        with connection.pipeline(transaction=True) as pipe:
            pipe.set(result_key(id), body, ex=100)
            pipe.xadd(events_key(id), {"event": "done", "data": body})
            pipe.expire(events_key(id), 100)
            pipe.execute()


Later = Callable[..., None]


@pytest.fixture
def later(connection: Redis) -> Iterator[Later]:
    """Calls a function after some seconds in another thread, which ends before the test does."""
    timers: list[threading.Timer] = []

    def start(seconds: float, action: Callable[..., object], *args: object) -> None:
        timers.append(threading.Timer(seconds, action, args))
        timers[-1].start()

    yield start
    for timer in timers:
        timer.join()


def test_a_submitted_text_is_an_rq_job_on_its_queue(client: Client, connection: Redis) -> None:
    ticket = client.submit("太棒了！", ["sentiment", "reply"], lang="zh", metadata={"row": None})
    job = Job.fetch(ticket.id, connection=connection, serializer=JSONSerializer)
    assert job.args == [
        {
            "v": 1,
            "items": [
                {
                    "id": ticket.id,
                    "text": "太棒了！",
                    "tasks": ["sentiment", "reply"],
                    "lang": "zh",
                    "metadata": {"row": None},
                }
            ],
        }
    ]
    assert job.get_status() == "queued"
    assert connection.lrange("rq:queue:interactive", 0, -1) == [ticket.id.encode()]
    assert connection.smembers("rq:queues") == {b"rq:queue:interactive"}


def test_a_result_that_came_before_the_wait_is_not_missed(client: Client, connection: Redis) -> None:
    ticket = client.submit("x")
    assert ticket.result() is None
    finish(connection, ticket.id)
    assert ticket.wait(LONG_S).id == ticket.id
    assert ticket.result() == client.result(ticket.id)


def test_a_result_is_found_when_its_event_stream_is_gone(client: Client, connection: Redis) -> None:
    finish(connection, "a")
    connection.delete(events_key("a"))
    assert next(client.wait(["a"], LONG_S)).id == "a"


def test_a_wait_ends_as_soon_as_the_result_is_written(
    client: Client, connection: Redis, later: Later
) -> None:
    ticket = client.submit("x")
    connection.xadd(events_key(ticket.id), {"event": "label", "data": "{}"})
    later(0.3, finish, connection, ticket.id)
    assert ticket.wait(LONG_S).status == "done"


def test_a_wait_does_not_poll(client: Client, connection: Redis, later: Later) -> None:
    connection.config_resetstat()
    later(2.0, finish, connection, "a")
    assert next(client.wait(["a"], LONG_S)).id == "a"
    calls = {name: entry["calls"] for name, entry in connection.info("commandstats").items()}
    assert calls["cmdstat_xread"] == 1
    assert calls["cmdstat_mget"] == 1


def test_results_come_in_the_order_in_which_they_are_written(client: Client, connection: Redis) -> None:
    results = client.wait(["a", "b", "c"], LONG_S)
    for id in ("b", "c", "a"):
        finish(connection, id)
        assert next(results).id == id
    assert list(results) == []


def test_more_ids_than_one_read_covers_all_come(client: Client, connection: Redis, later: Later) -> None:
    ids = [f"id-{number}" for number in range(3 * WINDOW + 1)]
    for id in ids[::2]:
        finish(connection, id)
    later(0.3, finish, connection, *reversed(ids[1::2]))
    found = [result.id for result in client.wait(iter(ids), LONG_S)]
    assert sorted(found) == sorted(ids)


def test_a_wait_survives_a_lost_connection(client: Client, connection: Redis, later: Later) -> None:
    def cut_and_finish() -> None:
        connection.client_kill_filter(_type="normal", skipme=True)
        finish(connection, "a")

    later(0.3, cut_and_finish)
    assert next(client.wait(["a"], LONG_S)).id == "a"


def test_a_timeout_says_that_no_worker_is_alive_and_how_to_start_one(client: Client) -> None:
    ticket = client.submit("x")
    with pytest.raises(WaitTimeout, match=r"no worker is alive: start one with `moodq worker`") as caught:
        ticket.wait(0.2)
    assert ticket.id in caught.value.message


def test_a_timeout_counts_only_workers_with_a_heartbeat(client: Client, connection: Redis) -> None:
    connection.sadd("rq:workers", "rq:worker:alive", "rq:worker:dead")
    connection.hset("rq:worker:alive", "state", "idle")
    with pytest.raises(WaitTimeout, match="1 worker is alive"):
        client.submit("x").wait(0.2)


def test_without_results_for_a_while_an_idle_wait_ends(client: Client, connection: Redis) -> None:
    finish(connection, "a")
    results = client.wait(["a", "b"], idle_timeout=0.3)
    assert next(results).id == "a"
    with pytest.raises(WaitTimeout, match="no result for b"):
        next(results)


@pytest.mark.parametrize("id", ["order-17", "order.17"])
def test_the_same_id_twice_is_one_job(client: Client, connection: Redis, id: str) -> None:
    first = client.submit("x", id=id)
    assert client.submit("x", id=id) == first
    assert connection.llen("rq:queue:interactive") == 1


def test_the_same_id_from_many_threads_is_one_job(client: Client, connection: Redis) -> None:
    with ThreadPoolExecutor(8) as threads:
        tickets = set(threads.map(lambda _: client.submit("x", id="once"), range(64)))
    assert len(tickets) == 1
    assert connection.llen("rq:queue:interactive") == 1


def test_while_its_result_is_kept_an_id_makes_no_new_job(client: Client, connection: Redis) -> None:
    finish(connection, "a")
    assert client.submit("x", id="a").wait(LONG_S).worker == "hand"
    assert connection.llen("rq:queue:interactive") == 0


@pytest.mark.parametrize("status", ["finished", "failed", "stopped", "canceled"])
def test_an_ended_job_without_result_gives_way_to_a_new_one(
    client: Client, connection: Redis, status: str
) -> None:
    connection.hset("rq:job:a", mapping={"status": status, "exc_info": "old", "moodq_attempts": 3})
    connection.zadd("rq:failed:interactive", {"a": time.time() + 1_000})
    client.submit("x", id="a")
    assert connection.lrange("rq:queue:interactive", 0, -1) == [b"a"]
    assert connection.zcard("rq:failed:interactive") == 0
    assert connection.hmget("rq:job:a", "status", "exc_info", "moodq_attempts") == [b"queued", None, None]


def test_a_started_job_is_left_alone(client: Client, connection: Redis) -> None:
    connection.hset("rq:job:a", mapping={"status": "started", "moodq_attempts": 1})
    client.submit("x", id="a")
    assert connection.llen("rq:queue:interactive") == 0
    assert connection.hget("rq:job:a", "status") == b"started"


def test_a_full_queue_is_told_and_takes_jobs_again_when_there_is_room(
    redis_url: str, connection: Redis
) -> None:
    with Client(load_settings(redis_url=redis_url, max_queue_length=2)) as client:
        client.submit("x")
        client.submit("x")
        with pytest.raises(QueueFull, match="holds 2 jobs, the limit is 2") as caught:
            client.submit("x")
        assert caught.value.code == ErrorCode.QUEUE_FULL
        assert connection.llen("rq:queue:interactive") == 2
        client.submit("on another queue", queue="bulk")
        connection.lpop("rq:queue:interactive")
        client.submit("x")


def test_a_producer_may_wait_for_room(redis_url: str, connection: Redis, later: Later) -> None:
    with Client(load_settings(redis_url=redis_url, max_queue_length=1)) as client:
        client.submit("x", id="first")
        later(0.3, connection.lpop, "rq:queue:interactive")
        client.submit("x", id="second", on_full="wait")
    assert connection.lrange("rq:queue:interactive", 0, -1) == [b"second"]


def test_many_texts_travel_in_chunks_and_keep_their_order(client: Client, connection: Redis) -> None:
    tickets = list(client.submit_many((f"text {n}" for n in range(250)), ["sentiment"], chunk=100))
    assert len({ticket.id for ticket in tickets}) == 250
    job_ids = [as_text(id) for id in connection.lrange("rq:queue:bulk", 0, -1)]
    jobs = [Job.fetch(id, connection=connection, serializer=JSONSerializer) for id in job_ids]
    items = [item for job in jobs for item in job.args[0]["items"]]
    assert [len(job.args[0]["items"]) for job in jobs] == [100, 100, 50]
    assert [item["text"] for item in items] == [f"text {n}" for n in range(250)]
    assert [item["id"] for item in items] == [ticket.id for ticket in tickets]


def test_an_endless_source_is_read_only_as_far_as_its_tickets_are_taken(client: Client) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield "x"

    tickets = client.submit_many(endless(), chunk=10)
    for _ in range(300):
        next(tickets)
    assert read == 400  # pipelines of 20 jobs of 10 items


def test_an_import_that_is_started_again_makes_no_second_job(client: Client, connection: Redis) -> None:
    rows = [{"id": f"row-{n}", "text": f"text {n}"} for n in range(25)]
    first = list(client.submit_many(rows, chunk=10))
    assert list(client.submit_many(rows, chunk=10)) == first
    assert connection.llen("rq:queue:bulk") == 3


def test_a_bad_item_among_many_is_named(client: Client) -> None:
    with pytest.raises(BadInput, match="item 3: text is empty"):
        list(client.submit_many(["a", "b", "c", " ", "e"]))


def test_an_unknown_queue_or_task_is_refused_before_anything_is_sent(
    client: Client, connection: Redis
) -> None:
    with pytest.raises(ConfigError, match="'fast' is not one of MOODQ_QUEUES"):
        client.submit("x", queue="fast")
    with pytest.raises(BadInput, match="'mood' is not a task; known: "):
        client.submit("x", "mood")
    assert connection.dbsize() == 0


def test_without_a_url_the_embedded_server_is_found_by_its_file(
    redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MOODQ_REDIS_URL", raising=False)
    settings = load_settings(data_dir=tmp_path)
    with pytest.raises(Unavailable, match="run `moodq up`"):
        Client(settings)
    file = embedded_url_file(settings)
    file.parent.mkdir(parents=True)
    file.write_text(redis_url + "\n", "utf-8")
    with Client(settings) as client:
        assert client.workers_alive() == 0


def test_a_redis_that_is_not_there_is_told_without_the_password() -> None:
    with pytest.raises(Unavailable, match="`moodq up`") as caught:
        Client("redis://user:hunter2@127.0.0.1:1/0")
    assert "hunter2" not in caught.value.message
    assert caught.value.code == ErrorCode.REDIS_UNREACHABLE


@pytest.mark.usefixtures("fake_worker")
def test_a_worker_answers_for_one_text_and_for_many(client: Client) -> None:
    single = client.submit("今天太棒了！", ["sentiment", "reply"]).wait(LONG_S)
    assert single.status == "done"
    assert set(single.results) == {"sentiment", "reply"}
    tickets = list(client.submit_many([f"a bad day {n}" for n in range(30)], chunk=7))
    results = list(client.wait((ticket.id for ticket in tickets), LONG_S))
    assert {result.id for result in results} == {ticket.id for ticket in tickets}
    assert {result.results["sentiment"].model_dump()["label"] for result in results} == {"negative"}
