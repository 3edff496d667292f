"""What both clients offer around a submit, side by side: results as they come, streams, answers by their
form, and patience with a Redis that is away or full."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from chaos.servers import Server
from moodq_config.settings import load_settings
from moodq_producer import (
    AsyncClient,
    BadInput,
    Client,
    ErrorCode,
    GeneratedText,
    ItemFailed,
    LabelScores,
    QueueFull,
    Unavailable,
    WaitTimeout,
)

LONG_S = 60.0


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(redis_url) as client:
        yield client


@pytest.fixture
async def async_client(redis_url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url) as client:
        yield client


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "server").start()
    yield server
    server.close()


def texts(count: int) -> list[str]:
    return [f"{'a bad' if number % 2 else '好'} day {number}" for number in range(count)]


@pytest.mark.usefixtures("fake_worker")
async def test_each_ticket_comes_with_its_own_result(client: Client, async_client: AsyncClient) -> None:
    tickets = client.submit_many(texts(300), chunk=7)
    results = list(client.as_completed(tickets, LONG_S))
    assert [ticket.id for ticket, _ in results] == [result.id for _, result in results]
    labels = [result.answer("sentiment", LabelScores).label for _, result in results]
    assert sorted(labels) == ["negative"] * 150 + ["positive"] * 150
    seen = []
    sending = async_client.submit_many(texts(300), chunk=7)
    async for sent, result in async_client.as_completed(sending, LONG_S):
        assert sent.id == result.id
        seen.append(await sent.result() == result)
    assert seen == [True] * 300


@pytest.mark.usefixtures("fake_worker")
async def test_tickets_of_one_id_all_get_its_result(client: Client, async_client: AsyncClient) -> None:
    tickets = [client.submit("好", id=id) for id in ("a", "b", "a")]
    assert sorted(ticket.id for ticket, _ in client.as_completed(tickets, LONG_S)) == ["a", "a", "b"]
    again = [await async_client.submit("好", id=id) for id in ("a", "b", "a")]
    found = [ticket.id async for ticket, _ in async_client.as_completed(again, LONG_S)]
    assert sorted(found) == ["a", "a", "b"]


@pytest.mark.usefixtures("fake_worker")
def test_an_endless_source_is_sent_only_as_far_as_its_results_are_taken(client: Client) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        for read in itertools.count(1):
            yield f"text {read}"

    results = client.as_completed(client.submit_many(endless(), chunk=10))
    for _ in range(1_000):
        next(results)
    assert read <= 1_000 + 256 + 200  # what is waited for at once, and one pipeline of 20 jobs of 10


async def test_without_a_result_both_end_with_the_time_out(client: Client, async_client: AsyncClient) -> None:
    with pytest.raises(WaitTimeout, match="no worker is alive"):
        list(client.as_completed([client.submit("x")], 0.2))
    sent = await async_client.submit("x")
    with pytest.raises(WaitTimeout, match="no worker is alive"):
        await anext(async_client.as_completed([sent], idle_timeout=0.2))


@pytest.mark.usefixtures("fake_worker")
async def test_a_ticket_streams_its_label_its_reply_and_its_result(
    client: Client, async_client: AsyncClient
) -> None:
    events = list(client.submit("很 好 的", ["sentiment", "reply"]).stream(LONG_S))
    sent = await async_client.submit("so good", ["sentiment", "reply"])
    async_events = [event async for event in sent.stream(LONG_S)]
    for found in (events, async_events):
        assert found[0].kind == "label"
        assert found[-1].result is not None
        reply = found[-1].result.answer("reply", GeneratedText)
        assert "".join(event.text for event in found).strip() == reply.text


@pytest.mark.usefixtures("fake_worker")
async def test_checked_items_travel_as_one_job_and_a_ticket_is_made_of_an_id(
    client: Client, async_client: AsyncClient, connection: Redis
) -> None:
    items = [client.item({"id": id, "text": "好"}) for id in ("a", "b")]
    job = client.submit_items(items, queue="bulk")
    assert connection.hget(f"rq:job:{job}", "description") == b"moodq: 2 items"
    assert client.ticket("b").wait(LONG_S).id == "b"
    assert await async_client.submit_items([async_client.item("好", "sentiment")]) != job
    assert (await async_client.ticket("a").wait(LONG_S)).id == "a"


@pytest.mark.usefixtures("fake_worker")
def test_an_answer_is_asked_for_by_its_form(client: Client) -> None:
    result = client.submit("好", ["sentiment"]).wait(LONG_S)
    assert result.raise_for_error() is result
    assert result.answer("sentiment", LabelScores).label == "positive"
    with pytest.raises(BadInput, match=r"no GeneratedText of task 'reply'; its answers: sentiment"):
        result.answer("reply", GeneratedText)
    ticket = client.submit("x", id="late", deadline=1e-3, queue="bulk")
    with pytest.raises(ItemFailed, match="item late: ") as caught:
        ticket.wait(LONG_S).answer("sentiment", LabelScores)
    assert caught.value.code == ErrorCode.DEADLINE_EXCEEDED
    assert caught.value.exit_code == 3


async def test_a_redis_that_restarts_is_waited_for_by_who_sends_and_by_who_waits(server: Server) -> None:
    with Client(server.url) as client:
        async with AsyncClient(server.url) as async_client:
            ticket = client.submit("x", id="a")
            waits = asyncio.create_task(asyncio.to_thread(ticket.wait, LONG_S))
            async_waits = asyncio.create_task((await async_client.submit("x", id="b")).wait(LONG_S))
            await asyncio.sleep(0.2)
            server.kill()
            sends = asyncio.create_task(asyncio.to_thread(client.submit, "y", id="c"))
            async_sends = asyncio.create_task(async_client.submit("y", id="d"))
            await asyncio.sleep(1.0)
            assert not any(task.done() for task in (waits, async_waits, sends, async_sends))
            server.start()
            assert (await sends).id == "c"
            assert (await async_sends).id == "d"
            with Redis.from_url(server.url) as connection:
                assert set(connection.lrange("rq:queue:interactive", 0, -1)) >= {b"c", b"d"}
            for id in ("a", "b"):
                assert await asyncio.to_thread(client.cancel, id)
            assert {(await waits).id, (await async_waits).id} == {"a", "b"}


async def test_how_long_a_redis_that_is_away_is_waited_for_is_a_setting(server: Server) -> None:
    settings = load_settings(redis_url=server.url, away_timeout_s=0.4)
    with Client(settings) as client:
        async with AsyncClient(settings) as async_client:
            server.kill()
            for send in (asyncio.to_thread(client.submit, "x"), async_client.submit("x")):
                began = time.monotonic()
                with pytest.raises(Unavailable):
                    await send
                assert 0.4 <= time.monotonic() - began < 10.0


async def test_what_a_client_does_at_a_full_queue_is_a_setting(redis_url: str, connection: Redis) -> None:
    full: dict[str, Any] = {"redis_url": redis_url, "max_queue_length": 1}
    with Client(load_settings(**full)) as client:
        client.submit("x")
        with pytest.raises(QueueFull):
            client.submit("x")
    with Client(load_settings(**full, on_full="wait", full_timeout_s=0.2)) as client:
        with pytest.raises(QueueFull):
            client.submit("x")
        with pytest.raises(QueueFull):  # a call says otherwise
            client.submit("x", on_full="raise")
    async with AsyncClient(load_settings(**full, on_full="wait")) as async_client:
        timer = threading.Timer(0.3, connection.lpop, ["rq:queue:interactive"])
        timer.start()
        await async_client.submit("x", id="second")
        timer.join()
    assert connection.lrange("rq:queue:interactive", 0, -1) == [b"second"]
