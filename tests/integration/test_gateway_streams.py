"""Event streams of the gateway: taken up where they broke off, alive while nothing happens, over restarts."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from redis.exceptions import RedisError

from integration.conftest import free_port
from integration.gateway_server import LONG_S, Seen, events, followed, problem_of, served, serving
from moodq_config.names import events_key, result_key
from moodq_producer.gateway.event_hub import ASKING_AT_ONCE

Start = Callable[..., Any]
REPLY = ["sentiment", "reply"]


@pytest.fixture
async def gateway(redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(redis_url=redis_url, gateway_heartbeat_s=0.3) as client:
        yield client


async def send(gateway: httpx.AsyncClient, id: str, text: str) -> None:
    answer = await gateway.post("/v1/jobs", json={"id": id, "text": text, "tasks": REPLY})
    assert answer.status_code == 202


@pytest.mark.usefixtures("fake_worker")
async def test_a_stream_is_taken_up_after_any_event_without_gap_or_repeat(gateway: httpx.AsyncClient) -> None:
    await send(gateway, "a", "a bad day with quite a few words")
    whole = await followed(gateway, "a")
    assert len(whole) > 4
    for number in range(len(whole) - 1):
        assert await followed(gateway, "a", after=whole[number].id) == whole[number + 1 :]
    after_all = await gateway.get("/v1/stream/a", headers={"Last-Event-ID": whole[-1].id or ""})
    assert after_all.status_code == 204  # a browser then does not come back


async def test_a_comment_comes_while_nothing_happens_and_many_follow_one_item(
    gateway: httpx.AsyncClient, connection: Any, start_fake_worker: Start
) -> None:
    await send(gateway, "a", "a bad day")

    comments = [0] * 60

    async def silent_then_followed(number: int) -> list[Seen]:
        found = []
        async with gateway.stream("GET", "/v1/stream/a") as response:
            async for seen in events(response):
                if isinstance(seen, Seen):
                    found.append(seen)
                else:
                    comments[number] += 1
        return found

    before = len(connection.client_list(_type="normal"))
    readers = [asyncio.create_task(silent_then_followed(number)) for number in range(len(comments))]
    async with asyncio.timeout(LONG_S):
        while min(comments) < 2:  # noqa: ASYNC110 - as many events as readers
            await asyncio.sleep(0.05)
    assert len(connection.client_list(_type="normal")) <= before + 2 * ASKING_AT_ONCE  # not one each
    start_fake_worker()
    found = await asyncio.gather(*readers)
    assert all(seen == found[0] for seen in found)
    assert found[0][-1].event == "done"


async def test_a_reader_of_another_item_is_heard_at_once_while_others_block(
    gateway: httpx.AsyncClient, start_fake_worker: Start, connection: Redis
) -> None:
    start_fake_worker()
    connection.hset("rq:job:waits", mapping={"status": "queued"})
    slow = asyncio.create_task(followed(gateway, "waits"))
    await asyncio.sleep(0.5)  # its read blocks by now, for seconds
    for number in range(5):
        await send(gateway, f"a{number}", "[[step 0.05]] [[words 5]] x")
        async with asyncio.timeout(3):
            seen = await followed(gateway, f"a{number}")
        assert seen[-1].event == "done"
    assert not slow.done()
    slow.cancel()


async def test_a_result_whose_stream_is_gone_is_given(
    gateway: httpx.AsyncClient, start_fake_worker: Start, connection: Redis
) -> None:
    start_fake_worker()
    await gateway.post("/v1/analyze", json={"id": "a", "text": "fine"})
    connection.delete(events_key("a"))
    [seen] = await followed(gateway, "a")
    assert (seen.event, seen.data["id"]) == ("done", "a")


async def test_a_result_that_no_event_told_of_is_found_all_the_same(
    gateway: httpx.AsyncClient, start_fake_worker: Start, connection: Redis
) -> None:
    await send(gateway, "a", "fine")
    reader = asyncio.create_task(followed(gateway, "a"))
    await asyncio.sleep(0.3)
    body = {
        "v": 1,
        "id": "a",
        "status": "done",
        "results": {},
        "worker": "w",
        "attempt": 1,
        "finished_at": "x",
    }
    connection.set(result_key("a"), json.dumps(body), ex=100)
    async with asyncio.timeout(5):
        [seen] = await reader
    assert seen.data == body


async def test_an_event_id_that_is_none_is_refused(gateway: httpx.AsyncClient) -> None:
    for last in ("x", "-", "1-", "1" * 30, "1-1-1", "0-0)"):
        answer = await gateway.get("/v1/stream/a", headers={"Last-Event-ID": last})
        assert problem_of(answer)["code"] == "invalid_field"


async def test_streams_and_waits_end_when_the_gateway_ends(redis_url: str) -> None:
    async with (
        served(redis_url=redis_url) as (server, url),
        httpx.AsyncClient(base_url=url, timeout=LONG_S) as gateway,
    ):
        await send(gateway, "a", "fine")
        stream = asyncio.create_task(followed(gateway, "a"))
        wait = asyncio.create_task(gateway.post("/v1/analyze", json={"text": "x", "wait_s": 30}))
        await asyncio.sleep(0.5)
        ended = asyncio.get_running_loop().time()
        server.should_exit = True
        assert await stream == []
        assert (await wait).status_code == 202
        assert asyncio.get_running_loop().time() - ended < 5


class Server:
    """A server with an append-only file, which can be stopped and started again on its port."""

    def __init__(self, binary: str, folder: Path) -> None:
        self._binary, self._folder = binary, folder
        self._port = free_port()
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self.process = self._start()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(LONG_S)

    def again(self) -> None:
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [self._binary, "--port", str(self._port), "--bind", "127.0.0.1", "--save", "", "--appendonly",
             "yes", "--appendfsync", "always", "--dir", str(self._folder)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        with Redis.from_url(self.url) as client:
            until(lambda: answers(client))
        return process


def answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except RedisError:
        return False


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextmanager
def worker_at(url: str, folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A ready worker with the fake engine, killed at the end if it has not ended before."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MOODQ_")}
    own = {
        "MOODQ_ENGINE": "fake",
        "MOODQ_REDIS_URL": url,
        "MOODQ_METRICS_PORT": "0",
        "MOODQ_LEASE_S": "2",
        "MOODQ_WORKER_NAME": name,
        "MOODQ_DATA_DIR": str(folder),
    }
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moodq_worker"], env={**inherited, **own}, cwd=folder, stderr=log
        )
    try:
        with Redis.from_url(url) as client:
            until(lambda: client.hget(f"rq:worker:{name}", "state") in (b"idle", b"busy"))
        yield process
    finally:
        process.kill()
        process.wait(LONG_S)


@contextmanager
def stoppable(binary: str, folder: Path) -> Iterator[Server]:
    server = Server(binary, folder)
    try:
        yield server
    finally:
        server.stop()


async def test_an_open_stream_outlives_restarts_of_redis_and_of_the_worker(
    server_program: Callable[[str], str], tmp_path: Path
) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(stoppable(server_program("valkey"), tmp_path))
        worker = stack.enter_context(worker_at(server.url, tmp_path, "first"))
        async with serving(redis_url=server.url, gateway_heartbeat_s=0.3) as gateway:
            await send(gateway, "a", "[[step 0.2]] [[words 15]] a bad day")
            seen: list[Seen] = []
            async with gateway.stream("GET", "/v1/stream/a") as response:
                async with asyncio.timeout(LONG_S):
                    async for one in events(response):
                        if not isinstance(one, Seen):
                            continue
                        seen.append(one)
                        if len(seen) == 3:
                            await asyncio.to_thread(server.stop)
                            await asyncio.sleep(1.0)
                            await asyncio.to_thread(server.again)
                        if len(seen) == 6:
                            await asyncio.to_thread(worker.kill)
                            second = worker_at(server.url, tmp_path, "second")
                            await asyncio.to_thread(stack.enter_context, second)
            assert seen[0].event == "label"
            assert seen[-1].event == "done"
            assert seen[-1].data["status"] == "done"
            assert seen[-1].data["attempt"] == 2  # by the second worker
            assert [one.event for one in seen].count("done") == 1
            stored = (await gateway.get("/v1/results/a")).json()
            assert stored == seen[-1].data
