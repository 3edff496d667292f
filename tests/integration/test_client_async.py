"""The async client against real servers: the promises of the sync one, in an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis import Redis

from moodq_config.contracts import Result, ResultStatus
from moodq_config.errors import BadInput, QueueFull, Unavailable, WaitTimeout
from moodq_config.names import events_key, result_key
from moodq_config.settings import load_settings
from moodq_producer import AsyncClient, Client
from moodq_producer.connection import MAX_CONNECTIONS
from moodq_producer.waiting import WINDOW

LONG_S = 60.0


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(redis_url) as client:
        yield client


def finish(connection: Redis, id: str) -> None:
    """Write a result as a worker does: key and event in one transaction."""
    result = Result(id=id, status=ResultStatus.DONE, worker="hand", attempt=1, finished_at="now")
    body = result.model_dump_json(exclude_none=True)
    with connection.pipeline(transaction=True) as pipe:
        pipe.set(result_key(id), body, ex=100)
        pipe.xadd(events_key(id), {"event": "done", "data": body})
        pipe.execute()


async def test_both_clients_enqueue_the_same_job(client: AsyncClient, redis_url: str) -> None:
    with Redis.from_url(redis_url) as connection, Client(redis_url) as sync:
        await client.submit("太棒了！", ["sentiment", "reply"], id="a", lang="zh", metadata={"k": 1})
        sync.submit("太棒了！", ["sentiment", "reply"], id="b", lang="zh", metadata={"k": 1})
        by_async, by_sync = connection.hgetall("rq:job:a"), connection.hgetall("rq:job:b")
        times_and_data = {b"created_at", b"enqueued_at", b"data"}
        assert set(by_async) == set(by_sync)
        assert {by_async[name] == by_sync[name] for name in set(by_sync) - times_and_data} == {True}
        assert connection.lrange("rq:queue:interactive", 0, -1) == [b"a", b"b"]


async def test_a_result_before_and_one_during_the_wait_both_come(
    client: AsyncClient, connection: Redis
) -> None:
    early, late = await client.submit("x"), await client.submit("y")
    finish(connection, early.id)
    assert (await early.wait(LONG_S)).id == early.id
    assert await late.result() is None
    asyncio.get_running_loop().call_later(0.3, finish, connection, late.id)
    assert (await late.wait(LONG_S)).id == late.id


async def test_waits_of_one_client_run_beside_each_other(client: AsyncClient, connection: Redis) -> None:
    tickets = [await client.submit("x") for _ in range(20)]
    waits = asyncio.gather(*(ticket.wait(LONG_S) for ticket in tickets))
    await asyncio.sleep(0.2)
    for ticket in reversed(tickets):
        finish(connection, ticket.id)
    assert [result.id for result in await waits] == [ticket.id for ticket in tickets]


async def test_five_thousand_waits_take_one_connection(client: AsyncClient, connection: Any) -> None:
    tickets = [ticket async for ticket in client.submit_many(f"text {n}" for n in range(5_000))]
    before = len(connection.client_list(_type="normal"))
    waits = [asyncio.create_task(ticket.wait(LONG_S)) for ticket in tickets]
    await asyncio.sleep(0.5)
    for start in range(0, len(tickets), 1_000):
        for ticket in tickets[start : start + 1_000]:
            finish(connection, ticket.id)
        done, _ = await asyncio.wait(waits[start : start + 1_000])
        assert [task.exception() for task in done] == [None] * 1_000
        assert len(connection.client_list(_type="normal")) <= before + 2
    assert [task.result().id for task in waits] == [ticket.id for ticket in tickets]


async def test_a_wait_that_begins_while_others_block_is_heard_at_once(
    client: AsyncClient, connection: Any
) -> None:
    slow = asyncio.create_task((await client.submit("x")).wait(LONG_S))
    await asyncio.sleep(0.3)  # its read blocks by now, for seconds
    for _ in range(10):
        ticket = await client.submit("y")
        finish(connection, ticket.id)
        async with asyncio.timeout(2):
            assert (await ticket.wait()).id == ticket.id
    assert not slow.done()
    slow.cancel()


async def test_a_result_that_cannot_be_read_fails_its_own_wait_only(
    client: AsyncClient, connection: Any
) -> None:
    broken, fine = await client.submit("x"), await client.submit("y")
    waits = asyncio.gather(broken.wait(LONG_S), fine.wait(LONG_S), return_exceptions=True)
    await asyncio.sleep(0.2)
    connection.xadd(f"moodq:events:{broken.id}", {"event": "done", "data": '{"v": 99}'})
    await asyncio.sleep(0.2)
    finish(connection, fine.id)
    refused, result = await waits
    assert isinstance(refused, BadInput)
    assert isinstance(result, Result)
    assert result.id == fine.id


async def test_a_result_that_is_there_is_given_whatever_the_timeout(
    client: AsyncClient, connection: Redis
) -> None:
    ticket = await client.submit("x")
    finish(connection, ticket.id)
    assert (await ticket.wait(0)).id == ticket.id


async def test_a_wait_given_up_does_not_disturb_the_others(client: AsyncClient, connection: Any) -> None:
    ticket = await client.submit("x")
    patient = asyncio.create_task(ticket.wait(LONG_S))
    with pytest.raises(WaitTimeout):
        await ticket.wait(0.2)
    finish(connection, ticket.id)
    assert (await patient).id == ticket.id


async def test_tickets_of_many_texts_can_be_waited_for_as_they_are_made(
    client: AsyncClient, connection: Redis
) -> None:
    async def ids() -> AsyncIterator[str]:
        async for ticket in client.submit_many((f"text {n}" for n in range(2 * WINDOW)), chunk=50):
            finish(connection, ticket.id)
            yield ticket.id

    found = [result.id async for result in client.wait(ids(), LONG_S)]
    assert len(set(found)) == 2 * WINDOW
    assert connection.llen("rq:queue:bulk") == -(-2 * WINDOW // 50)


async def test_a_timeout_says_that_no_worker_is_alive(client: AsyncClient) -> None:
    ticket = await client.submit("x")
    with pytest.raises(WaitTimeout, match="no worker is alive"):
        await ticket.wait(0.2)


async def test_the_same_id_at_once_is_one_job(client: AsyncClient, connection: Redis) -> None:
    tickets = await asyncio.gather(*(client.submit("x", id="once") for _ in range(32)))
    assert len(set(tickets)) == 1
    assert connection.llen("rq:queue:interactive") == 1


async def test_more_calls_at_once_than_connections_wait_for_one(client: AsyncClient, connection: Any) -> None:
    tickets = await asyncio.gather(*(client.submit("x") for _ in range(5 * MAX_CONNECTIONS)))
    assert connection.llen("rq:queue:interactive") == len(tickets)
    assert len(connection.client_list(_type="normal")) <= MAX_CONNECTIONS + 1


async def test_a_full_queue_is_told_or_waited_for(redis_url: str, connection: Redis) -> None:
    async with AsyncClient(load_settings(redis_url=redis_url, max_queue_length=1)) as client:
        await client.submit("x")
        with pytest.raises(QueueFull):
            await client.submit("x")
        asyncio.get_running_loop().call_later(0.3, connection.lpop, "rq:queue:interactive")
        await client.submit("x", id="second", on_full="wait")
    assert connection.lrange("rq:queue:interactive", 0, -1) == [b"second"]


async def test_bad_input_is_refused_at_the_edge(client: AsyncClient, connection: Redis) -> None:
    with pytest.raises(BadInput, match="text is empty"):
        await client.submit(" ")
    with pytest.raises(BadInput, match="item 1: "):
        _ = [ticket async for ticket in client.submit_many(["fine", ""])]
    assert connection.dbsize() == 0


async def test_a_redis_that_is_not_there_is_told_without_the_password() -> None:
    client = AsyncClient("redis://user:hunter2@127.0.0.1:1/0")
    with pytest.raises(Unavailable, match="`moodq up`") as caught:
        await client.submit("x")
    assert "hunter2" not in caught.value.message


async def test_a_wait_survives_a_lost_connection(client: AsyncClient, connection: Redis) -> None:
    def cut_and_finish() -> None:
        connection.client_kill_filter(_type="normal", skipme=True)
        finish(connection, "a")

    asyncio.get_running_loop().call_later(0.3, cut_and_finish)
    assert [result.id async for result in client.wait(["a"], LONG_S)] == ["a"]


@pytest.mark.usefixtures("fake_worker")
async def test_a_worker_answers(client: AsyncClient) -> None:
    ticket = await client.submit("a terrible day", ["sentiment", "reply"])
    result = await ticket.wait(LONG_S)
    assert result.status == "done"
    assert result.results["sentiment"].model_dump()["label"] == "negative"
