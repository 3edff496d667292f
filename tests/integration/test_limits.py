"""Limits and back-pressure against real servers: rates, memory, and what the worker checks again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from rq.job import Job

from moodq_config.contracts import Cut
from moodq_config.errors import BadInput, ErrorCode, QueueFull, RateLimited
from moodq_config.memory import MIB
from moodq_config.names import INTERACTIVE, MEMORY_KEY, events_key, rate_key, result_key
from moodq_config.settings import load_settings
from moodq_producer import AsyncClient, Client
from moodq_worker.memory import MemoryGuard
from moodq_worker.rq_finish import WrittenResult
from moodq_worker.rq_job import JobLimits
from moodq_worker.rq_worker import BatchWorker

StartFakeWorker = Callable[..., Any]
MakeWorker = Callable[..., BatchWorker]
Push = Callable[..., Job]
Fill = Callable[[float], None]

LONG_S = 60.0
#: With this limit bulk takes jobs below 32 MiB and is claimed below 44.8, interactive below 51.2 and 60.8.
LIMIT_MB = 64
BETWEEN_MB = 48.0


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(redis_url) as client:
        yield client


@pytest.fixture
def fill(connection: Redis) -> Fill:
    """Makes Redis use about so many MiB."""

    def set_size(mib: float) -> None:
        server: Any = connection
        server.delete("filler", MEMORY_KEY)
        deadline = time.monotonic() + 10
        # What was deleted, here or between two tests, is freed in the background.
        while (left := int(mib * MIB) - int(server.info("memory")["used_memory"])) < 0:
            assert time.monotonic() < deadline, "the memory does not come free"
            time.sleep(0.02)
        server.setrange("filler", left, "x")

    return set_size


# -- rate --------------------------------------------------------------------------------------------------


def test_producers_of_one_name_share_a_rate_and_others_do_not(redis_url: str, connection: Redis) -> None:
    limited = load_settings(redis_url=redis_url, client_name="shop", max_items_per_s=10)
    other = load_settings(redis_url=redis_url, client_name="desk", max_items_per_s=10)
    with Client(limited) as one, Client(limited) as two, Client(other) as three:
        with pytest.raises(RateLimited) as caught:
            _send_in_turn([one, two], 100)
        assert 10 <= connection.llen("rq:queue:interactive") < 100
        assert caught.value.code == ErrorCode.RATE_LIMITED
        assert 0 < caught.value.retry_after_s <= 1
        three.submit("x")
        assert one.submit("x", id="item-0").id == "item-0"  # known already: it costs nothing
    assert 0 < connection.pttl(rate_key("shop")) < 10_000


def _send_in_turn(clients: list[Client], count: int) -> None:
    for number in range(count):
        clients[number % len(clients)].submit("x", id=f"item-{number}")


def test_a_large_job_passes_and_is_paid_for_afterwards(redis_url: str) -> None:
    with Client(load_settings(redis_url=redis_url, max_items_per_s=100)) as client:
        assert len(list(client.submit_many(["x"] * 250, chunk=250))) == 250
        with pytest.raises(RateLimited) as caught:
            client.submit("x")
        assert 0.5 < caught.value.retry_after_s <= 1.5
        began = time.monotonic()
        client.submit("x", on_full="wait", full_timeout=LONG_S)
        assert time.monotonic() - began > 0.5


async def test_the_async_client_waits_for_room_no_longer_than_it_is_told(redis_url: str) -> None:
    async with AsyncClient(load_settings(redis_url=redis_url, max_queue_length=1)) as client:
        await client.submit("x")
        began = time.monotonic()
        with pytest.raises(QueueFull):
            await client.submit("x", on_full="wait", full_timeout=0.3)
        assert time.monotonic() - began >= 0.3


# -- memory ------------------------------------------------------------------------------------------------


def test_a_redis_that_is_filling_takes_no_bulk_but_still_what_somebody_waits_for(
    redis_url: str, connection: Redis, fill: Fill
) -> None:
    with Client(load_settings(redis_url=redis_url, max_redis_mb=LIMIT_MB)) as client:
        fill(BETWEEN_MB)
        with pytest.raises(QueueFull, match=r"takes jobs up to 32\.0") as caught:
            list(client.submit_many(["x"]))
        assert caught.value.code == ErrorCode.QUEUE_FULL
        client.submit("x")
        assert connection.exists("rq:queue:bulk") == 0
        fill(LIMIT_MB)
        with pytest.raises(QueueFull, match="MOODQ_MAX_REDIS_MB"):
            client.submit("x")
        connection.delete("filler")
        assert list(client.submit_many(["x"], on_full="wait", full_timeout=LONG_S))


def test_what_is_enqueued_between_two_readings_of_the_memory_counts(client: Client, connection: Any) -> None:
    read = 500 * MIB
    connection.hset(MEMORY_KEY, mapping={"used": read, "limit": 0})
    connection.pexpire(MEMORY_KEY, 60_000)
    noise = os.urandom(1_500).hex()  # does not compress to less than half
    client.submit("x", metadata={"noise": noise})
    assert read + 2_000 < int(connection.hget(MEMORY_KEY, "used")) < read + 5_000
    connection.pexpire(MEMORY_KEY, 1)
    time.sleep(0.01)
    client.submit("x")
    assert int(connection.hget(MEMORY_KEY, "used")) < read
    assert 0 < connection.pttl(MEMORY_KEY) <= 100


def test_the_servers_own_limit_counts_when_it_is_lower(redis_url: str, connection: Redis, fill: Fill) -> None:
    connection.config_set("maxmemory", f"{LIMIT_MB}mb")
    try:
        fill(BETWEEN_MB)
        with Client(redis_url) as client, pytest.raises(QueueFull, match=r"up to 32\.0"):
            list(client.submit_many(["x"]))
    finally:
        connection.config_set("maxmemory", "0")


def test_a_worker_leaves_bulk_alone_until_there_is_room_for_its_results(
    redis_url: str, connection: Redis, client: Client, start_fake_worker: StartFakeWorker, fill: Fill
) -> None:
    (bulk,) = client.submit_many(["x"])
    fill(BETWEEN_MB)
    worker = start_fake_worker(MOODQ_MAX_REDIS_MB=str(LIMIT_MB))
    assert client.submit("x").wait(LONG_S).status == "done"
    assert connection.llen("rq:queue:bulk") == 1
    assert "queue bulk is left alone until results expire" in worker.log.read_text()
    connection.delete("filler")
    assert bulk.wait(LONG_S).status == "done"


# -- what ended jobs ask for -------------------------------------------------------------------------------

ASKED_TTLS = [-1, -99, 10**15, 10**30]


@pytest.mark.parametrize("asked", ASKED_TTLS)
def test_no_job_is_kept_for_longer_than_the_limit(
    asked: int, connection: Any, push: Push, make_worker: MakeWorker
) -> None:
    for name in ("good", "bad"):
        push(name, result_ttl=asked, failure_ttl=asked)
    worker = make_worker(limits=JobLimits(max_result_ttl_s=900, max_failure_ttl_s=800))
    good, bad = worker.claim(2, [INTERACTIVE])
    assert worker.finish([WrittenResult("good", b"{}", good)], [(good, {"done": 1})]) == [True]
    assert worker.fail(bad, BadInput("no"), retry=False)
    now = time.time()
    for key, most in (("job:good", 900), ("results:good", 900), ("job:bad", 800), ("results:bad", 800)):
        assert 0 < connection.ttl(f"rq:{key}") <= most
    assert now < connection.zscore("rq:finished:interactive", "good") <= now + 910
    assert now < connection.zscore("rq:failed:interactive", "bad") <= now + 810
    endless = {key for key in connection.scan_iter() if connection.ttl(key) < 0}
    registered = {b"rq:workers", b"rq:workers:interactive", b"rq:queues"}
    assert endless - registered == {b"rq:finished:interactive", b"rq:failed:interactive"}


# -- jobs that no producer has seen ------------------------------------------------------------------------


def data_of(*items: dict[str, Any]) -> bytes:
    job: list[Any] = ["moodq.run", None, [{"v": 1, "items": items}], {}]
    return json.dumps(job, ensure_ascii=False).encode()


GOOD = {"text": "good", "tasks": ["sentiment"]}
BY_HAND = {
    "too-many-items": (data_of(GOOD, GOOD, GOOD), "too_many_items"),
    "too-many-bytes": (data_of(GOOD | {"metadata": {"k": "x" * MIB}}), "job_too_large"),
    "too-many-characters": (data_of(GOOD | {"text": "x" * 21}), "text_too_long"),
    "too-many-tokens": (data_of(GOOD | {"text": "x" * 13}), "text_too_long"),
    "far-too-long-to-cut": (data_of(GOOD | {"text": "x" * 201, "long_text": "truncate"}), "text_too_long"),
    "too-much-metadata": (data_of(GOOD | {"metadata": {"k": "x" * 30}}), "invalid_field"),
    "too-long-an-id": (data_of(GOOD | {"id": "x" * 129}), "invalid_field"),
    "too-long-a-conversation": (data_of(GOOD | {"conversation": "x" * 129}), "invalid_field"),
    "too-many-tasks": (data_of(GOOD | {"tasks": ["sentiment"] * 17}), "invalid_field"),
}


def test_a_worker_checks_again_what_was_written_past_the_producer(
    client: Client, push: Push, connection: Redis, start_fake_worker: StartFakeWorker
) -> None:
    for id, (data, _) in BY_HAND.items():
        push(id, data=data, result_ttl=-1, failure_ttl=-1)
    push("good", data=data_of(GOOD))
    start_fake_worker(
        MOODQ_MAX_ITEMS_PER_JOB="2",
        MOODQ_MAX_JOB_MB="1",
        MOODQ_MAX_TEXT_CHARS="20",
        MOODQ_MAX_TEXT_TOKENS="12",
        MOODQ_MAX_METADATA_BYTES="30",
        MOODQ_MAX_TTL_S="1000",
        MOODQ_FAILURE_TTL_S="1000",
    )
    codes = {
        result.id: result.error and result.error.code for result in client.wait([*BY_HAND, "good"], LONG_S)
    }
    assert codes == {id: code for id, (_, code) in BY_HAND.items()} | {"good": None}
    deadline = time.monotonic() + LONG_S
    while connection.zcard("rq:failed:interactive") < len(BY_HAND):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert all(0 < connection.ttl(f"rq:job:{id}") <= 1000 for id in BY_HAND)


# -- long texts --------------------------------------------------------------------------------------------


def test_a_long_text_is_cut_by_choice_and_its_result_says_so(
    redis_url: str, start_fake_worker: StartFakeWorker
) -> None:
    start_fake_worker(MOODQ_MAX_TEXT_CHARS="20", MOODQ_MAX_TEXT_TOKENS="12")  # a token a character
    settings = load_settings(redis_url=redis_url, long_text="truncate", max_text_chars=20)
    with Client(settings) as client:
        for _ in range(2):  # the second time the cache must not make it look whole
            truncated = client.submit("A fine day, and then it was bad").wait(LONG_S)
            assert truncated.truncated is not None
            assert truncated.truncated.characters == Cut(kept=20, of=31)
            assert truncated.truncated.tokens == Cut(kept=12, of=20)
            assert truncated.results["sentiment"].label == "positive"  # type: ignore[union-attr]
            assert truncated.cached is None
        assert client.submit("A fine day").wait(LONG_S).truncated is None


def test_a_worker_that_is_told_to_cuts_what_says_nothing_and_remembers_the_beginning(
    connection: Any, client: Client, push: Push, start_fake_worker: StartFakeWorker
) -> None:
    start_fake_worker(MOODQ_MAX_TEXT_CHARS="10", MOODQ_LONG_TEXT="truncate")
    for id in ("first", "second"):
        push(id, data=data_of(GOOD | {"text": "A fine day at the sea"}))
        (result,) = client.wait([id], LONG_S)
        assert result.truncated is not None
        assert result.truncated.characters == Cut(kept=10, of=21)
        assert result.truncated.tokens is None
        deadline = time.monotonic() + LONG_S
        while not connection.hlen("moodq:cache:young"):  # it is remembered after it is delivered
            assert time.monotonic() < deadline
            time.sleep(0.01)
    assert result.cached == "exact"
    push("third", data=data_of(GOOD | {"text": "A fine day at the sea", "long_text": "refuse"}))
    (result,) = client.wait(["third"], LONG_S)
    assert result.error is not None
    assert result.error.code == ErrorCode.TEXT_TOO_LONG


# -- streams -----------------------------------------------------------------------------------------------


def test_an_items_event_stream_holds_so_many_entries_at_most(
    connection: Redis, client: Client, start_fake_worker: StartFakeWorker
) -> None:
    start_fake_worker(MOODQ_MAX_EVENTS="16")
    words = " ".join(["word"] * 400)
    assert client.submit(words, ["reply"], id="long").wait(LONG_S).status == "done"
    # The limit is approximate: whole nodes of the stream are dropped.
    assert connection.xlen(events_key("long")) < 80 + 2
    assert connection.ttl(events_key("long")) > 0
    assert connection.ttl(result_key("long")) > 0


def test_a_server_that_drops_keys_when_full_is_reported(
    redis_url: str, connection: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    guard = MemoryGuard(connection, max_bytes=LIMIT_MB * MIB, first_queue=INTERACTIVE)
    guard.warn_of_eviction()
    assert caplog.records == []
    connection.config_set("maxmemory", "1gb")
    connection.config_set("maxmemory-policy", "allkeys-lru")
    try:
        guard.warn_of_eviction()
    finally:
        connection.config_set("maxmemory-policy", "noeviction")
        connection.config_set("maxmemory", "0")
    assert "set maxmemory-policy to noeviction" in caplog.text
