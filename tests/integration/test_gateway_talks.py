"""A person beside the model, over HTTP: routed, taken over, answered, given back."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from integration.gateway_server import followed, problem_of, serving
from moodq_producer import AsyncClient

Start = Callable[..., Any]
ROUTES = """
[[routes]]
when = "sentiment.negative > 0.8"
route = "human"
reply = false
"""


@pytest.fixture
async def gateway(redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(redis_url=redis_url) as client:
        yield client


async def test_a_negative_customer_is_routed_to_a_person_and_the_automatic_reply_silenced(
    redis_url: str, gateway: httpx.AsyncClient, start_fake_worker: Start, tmp_path: Path
) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text(ROUTES, "utf-8")
    start_fake_worker(MOODQ_TASKS_FILE=str(routes))
    place = "/v1/conversations/anna-7"

    async def send(text: str) -> dict[str, Any]:
        body = {"text": text, "tasks": ["sentiment", "reply"], "conversation": "anna-7", "wait_s": 30}
        answer = await gateway.post("/v1/analyze", json=body)
        assert answer.status_code == 200
        return dict(answer.json())

    greeted = await send("hello")
    assert greeted["results"]["reply"]["text"] == "echo: hello"
    assert "route" not in greeted
    angry = await send("这太差了，我要找人工")
    assert (angry["route"], angry["silenced"]) == ("human", {"reply": "route"})
    assert list(angry["results"]) == ["sentiment"]
    assert [seen.event for seen in await followed(gateway, angry["id"])] == ["done"]
    async with AsyncClient(redis_url) as client:
        message = await client.conversations.next_routed("human")
        assert message is not None
        assert (message.conversation, message.text) == ("anna-7", "这太差了，我要找人工")
        assert [turn.text for turn in message.turns] == ["hello", "echo: hello"]
        assert await client.conversations.next_routed("human") is None
    taken = await gateway.post(f"{place}/takeover", json={"by": "小李"})
    assert (taken.status_code, taken.json()["by"]) == (200, "小李")
    said = await gateway.post(f"{place}/turns", json={"text": "我是小李，马上处理。", "by": "小李"})
    assert (said.status_code, said.json()["role"]) == (200, "person")
    silent = await send("are you there")
    assert silent["silenced"] == {"reply": "taken_over"}
    assert silent["results"]["sentiment"]["label"] == "positive"
    shown = (await gateway.get(place)).json()
    assert shown["taken_over"] == taken.json()
    assert [(turn["role"], turn["text"]) for turn in shown["turns"]] == [
        ("user", "hello"),
        ("assistant", "echo: hello"),
        ("user", "这太差了，我要找人工"),
        ("person", "我是小李，马上处理。"),
        ("user", "are you there"),
    ]
    assert (await gateway.delete(f"{place}/takeover")).json() == {"id": "anna-7", "released": True}
    assert (await gateway.delete(f"{place}/takeover")).json() == {"id": "anna-7", "released": False}
    assert (await gateway.get(place)).json()["taken_over"] is None
    again = await send("thanks")
    assert "silenced" not in again
    assert "我是小李" in again["results"]["reply"]["text"]


async def test_nothing_was_said_in_a_conversation_that_nobody_began(gateway: httpx.AsyncClient) -> None:
    answer = await gateway.get("/v1/conversations/none")
    assert answer.json() == {"id": "none", "turns": [], "taken_over": None}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("c/takeover", {}, "by"),
        ("c/takeover", {"by": ""}, "by"),
        ("c/takeover", {"by": 7}, "by"),
        ("c/takeover", {"by": "a\x00b"}, "by"),
        ("c/takeover", {"by": "Ann", "for": 3}, None),
        ("c/turns", {"by": "Ann"}, "text"),
        ("c/turns", {"text": ["x"]}, "text"),
        ("a%20b/turns", {"text": "x"}, "id"),
    ],
)
async def test_what_is_wrong_is_told_as_a_problem(
    gateway: httpx.AsyncClient, path: str, body: dict[str, Any], field: str | None
) -> None:
    answer = await gateway.post(
        f"/v1/conversations/{path}", content=json.dumps(body), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 422
    assert problem_of(answer).get("field") == field
