"""Callbacks: signed, sent again, kept over a restart of the gateway, and never into the gateway's network."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import trustme
from redis import Redis

from integration.gateway_server import problem_of, serving
from integration.webhook_receiver import Receiver, receiving
from moodq_config.names import CALLBACKS_KEY
from moodq_config.settings import load_settings
from moodq_producer.async_client import AsyncClient
from moodq_producer.gateway.callbacks import addresses
from moodq_producer.gateway.callbacks.delivery import Callbacks
from moodq_producer.gateway.callbacks.signing import secret_of, shown
from moodq_producer.gateway.metrics import GatewayMetrics

Start = Callable[..., Any]
MASTER = "a secret of the gateway's own, for tests"
LOCAL = shown(secret_of(MASTER, "local"))
OPEN = {
    "gateway_callback_secret": MASTER,
    "gateway_callback_private": True,
    "gateway_callback_backoff_s": 0.1,
}


async def until(true: Callable[[], object], seconds: float = 20.0) -> None:
    async with asyncio.timeout(seconds):
        while not true():  # noqa: ASYNC110 - Redis and a receiver raise no event here
            await asyncio.sleep(0.02)


async def send(gateway: httpx.AsyncClient, url: str, **more: Any) -> httpx.Response:
    return await gateway.post("/v1/jobs", json={"text": "a bad day", "callback_url": url, **more})


@pytest.mark.usefixtures("fake_worker")
async def test_a_result_is_sent_once_with_a_signature_that_anybody_can_check(
    redis_url: str, connection: Redis
) -> None:
    with receiving(LOCAL) as receiver:
        async with serving(redis_url=redis_url, **OPEN) as gateway:
            assert (await send(gateway, receiver.url, id="a")).status_code == 202
            assert (await send(gateway, receiver.url, id="a")).status_code == 202  # asked for twice
            await until(lambda: receiver.got)
            result = (await gateway.get("/v1/results/a")).json()
            await asyncio.sleep(1.2)
            metrics = (await gateway.get("/metrics")).text
    assert receiver.got == [result]
    assert receiver.forged == 0
    assert receiver.headers[0]["content-type"] == "application/json"
    assert receiver.headers[0]["user-agent"].startswith("moodq/")
    assert 'moodq_gateway_callbacks_total{outcome="delivered"} 1.0' in metrics
    assert not connection.keys("moodq:callback*")


@pytest.mark.usefixtures("fake_worker")
async def test_each_key_signs_with_a_secret_of_its_own(redis_url: str) -> None:
    with receiving(shown(secret_of(MASTER, "other"))) as receiver:
        async with serving(redis_url=redis_url, **OPEN, gateway_callback_attempts=1) as gateway:
            await send(gateway, receiver.url)
            await until(lambda: receiver.forged)
    assert not receiver.got


@pytest.mark.usefixtures("fake_worker")
async def test_a_receiver_that_fails_is_tried_again_with_the_same_message(redis_url: str) -> None:
    with receiving(LOCAL) as receiver:
        receiver.statuses = [500, 429, 302]
        async with serving(redis_url=redis_url, **OPEN) as gateway:
            await send(gateway, receiver.url)
            await until(lambda: len(receiver.got) == 4)
    assert all(body == receiver.got[0] for body in receiver.got)
    assert len({headers["webhook-id"] for headers in receiver.headers}) == 1


@pytest.mark.usefixtures("fake_worker")
async def test_it_is_given_up_after_its_attempts_or_when_the_receiver_says_gone(
    redis_url: str, connection: Redis
) -> None:
    with receiving(LOCAL) as receiver:
        receiver.statuses = [500] * 10
        async with serving(redis_url=redis_url, **OPEN, gateway_callback_attempts=2) as gateway:
            await send(gateway, receiver.url)
            await until(lambda: len(receiver.got) == 2)
            await until(lambda: not connection.keys("moodq:callback*"))
            receiver.statuses = [410]
            await send(gateway, receiver.url)
            await until(lambda: len(receiver.got) == 3)
            await until(lambda: not connection.keys("moodq:callback*"))
            assert 'outcome="given_up"} 2.0' in (await gateway.get("/metrics")).text


async def test_what_is_owed_outlives_the_gateway(
    redis_url: str, connection: Redis, start_fake_worker: Start
) -> None:
    with receiving(LOCAL) as receiver:
        async with serving(redis_url=redis_url, **OPEN) as gateway:
            await send(gateway, receiver.url, id="a")
        assert connection.zcard(CALLBACKS_KEY) == 1
        start_fake_worker()  # the result comes while no gateway is there
        async with AsyncClient(redis_url) as client:
            await client.ticket("a").wait(30)
        async with serving(redis_url=redis_url, **OPEN):
            await until(lambda: receiver.got)
    assert [body["id"] for body in receiver.got] == ["a"]


@pytest.mark.usefixtures("fake_worker")
async def test_one_whose_gateway_was_killed_is_sent_by_another_when_its_lease_is_over(
    redis_url: str, connection: Any
) -> None:
    with receiving(LOCAL) as receiver:
        settings = load_settings(redis_url=redis_url, **OPEN)
        killed = Callbacks(settings, GatewayMetrics())
        await killed.owe("a", receiver.url, "local")
        for task in killed._in_hand.values():
            task.cancel()  # as if the process had ended here
        async with serving(redis_url=redis_url, **OPEN) as gateway:
            await gateway.post("/v1/analyze", json={"id": "a", "text": "x"})
            await asyncio.sleep(1.0)
            assert not receiver.got  # it is leased still
            [name] = connection.zrange(CALLBACKS_KEY, 0, -1)
            connection.zincrby(CALLBACKS_KEY, -30, name)
            await until(lambda: receiver.got)
        await killed.close()


@pytest.mark.usefixtures("fake_worker")
async def test_an_item_that_is_refused_owes_nothing(redis_url: str, connection: Redis) -> None:
    async with serving(redis_url=redis_url, **OPEN, max_items_per_s=0.1) as gateway:
        assert (await send(gateway, "https://example.org/hook", text=" ")).status_code == 422
        await gateway.post("/v1/jobs", json={"text": "x"})
        assert (await send(gateway, "https://example.org/hook")).status_code == 429
    assert not connection.keys("moodq:callback*")


async def test_only_so_many_may_be_owed(redis_url: str) -> None:
    async with serving(redis_url=redis_url, **OPEN, gateway_max_callbacks=2) as gateway:
        answers = [await send(gateway, "https://example.org/hook") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [202, 202, 503]
    assert problem_of(answers[2])["code"] == "queue_full"


NOT_ALLOWED: list[Any] = [
    "http://example.org/",
    "ftp://example.org/",
    "https://",
    "https://user:password@example.org/",
    "https://127.0.0.1/",
    "https://[::1]:8443/",
    "https://10.0.0.1/",
    "https://169.254.169.254/latest/meta-data",
    "https://[::ffff:127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[fe80::1]/",
    "https://[fd00::1]/",
    "https://0.0.0.0/",
    "https://100.64.0.1/",
    "https://224.0.0.1/",
    "https://ex\u00e4mple.org/",
    "https://example.org/\nHost: x",
    "https://example.org:99999/",
    7,
    "https://example.org/" + "x" * 2_048,
]


async def test_a_url_that_is_not_for_callbacks_is_refused_at_once(redis_url: str) -> None:
    async with serving(redis_url=redis_url, gateway_callback_secret=MASTER) as gateway:
        for url in NOT_ALLOWED:
            refused = problem_of(await send(gateway, url))
            assert (refused["status"], refused["code"]) == (422, "callback_refused"), url
            assert refused["field"] == "callback_url"


async def test_without_a_secret_there_are_no_callbacks(redis_url: str) -> None:
    async with serving(redis_url=redis_url) as gateway:
        refused = problem_of(await send(gateway, "https://example.org/hook"))
    assert refused["code"] == "callback_refused"
    assert "MOODQ_GATEWAY_CALLBACK_SECRET" in refused["detail"]


@pytest.mark.usefixtures("fake_worker")
async def test_a_name_that_leads_into_this_network_is_refused_when_it_is_looked_up(
    redis_url: str, connection: Redis
) -> None:
    with receiving(LOCAL) as receiver:
        url = receiver.url.replace("http:", "https:").replace("127.0.0.1", "localhost")
        async with serving(redis_url=redis_url, gateway_callback_secret=MASTER) as gateway:
            assert (await send(gateway, url)).status_code == 202
            await until(lambda: not connection.keys("moodq:callback*"))
            assert 'outcome="refused"} 1.0' in (await gateway.get("/metrics")).text
    assert not receiver.got
    assert not receiver.forged


@pytest.fixture
def authority() -> trustme.CA:
    return trustme.CA()


def server_tls(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name).configure_cert(context)
    return context


async def called(receiver: Receiver, redis_url: str, tls: ssl.SSLContext, url: str) -> None:
    """Let the result of an item be sent to ``url`` by callbacks that trust ``tls``."""
    settings = load_settings(redis_url=redis_url, **OPEN, gateway_callback_attempts=1)
    callbacks = Callbacks(settings, GatewayMetrics(), tls)
    async with AsyncClient(redis_url) as client:
        await client.submit("x", id="a")
        await client.cancel("a")
        await callbacks.owe("a", url, "local")
        await until(lambda: not callbacks._in_hand)
    await callbacks.close()


async def test_it_goes_to_the_address_that_was_looked_up_first_and_tls_is_checked_by_the_name(
    redis_url: str, authority: trustme.CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    lookups: list[str] = []
    resolve = addresses.resolve

    async def looked_up(host: str, port: int, *, private: bool) -> str:
        lookups.append(host)
        return await resolve("localhost", port, private=private)

    monkeypatch.setattr("moodq_producer.gateway.callbacks.delivery.resolve", looked_up)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with receiving(LOCAL, tls=server_tls(authority, "hooks.example")) as receiver:
        # No such name is known anywhere: to ask for anything but the address looked up would fail.
        url = receiver.url.replace("127.0.0.1", "hooks.example")
        await called(receiver, redis_url, trusting, url)
        assert len(receiver.got) == 1
        assert lookups == ["hooks.example"]
        port = httpx.URL(url).port
        assert receiver.headers[0]["host"] == f"hooks.example:{port}"
        await called(receiver, redis_url, trusting, url.replace("hooks.example", "other.example"))
        assert len(receiver.got) == 1  # the certificate is of another name


async def test_it_can_go_to_ipv6(redis_url: str) -> None:
    with receiving(LOCAL) as receiver:
        receiver.url = receiver.url.replace("127.0.0.1", "[::ffff:127.0.0.1]")
        await called(receiver, redis_url, ssl.create_default_context(), receiver.url)
    assert len(receiver.got) == 1
