"""The gateway's OpenAPI tells the truth: its examples are sent, and what comes back is as it shows."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema
import pytest

from integration.gateway_server import serving

#: Type of the fixture, see conftest.
FakeWorker = Any


@pytest.fixture
async def gateway(redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(redis_url=redis_url) as client:
        yield client


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """A schema of the document that stands by itself."""
    return {**schema, "components": document["components"]}


def shape(value: Any) -> Any:
    """What kinds of values are where."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value[:1]]
    return "number" if isinstance(value, int | float) else type(value).__name__


@pytest.mark.usefixtures("fake_worker")
async def test_every_request_shown_is_answered_with_what_the_document_says(
    gateway: httpx.AsyncClient,
) -> None:
    document = (await gateway.get("/openapi.json")).json()
    sent = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for content in operation.get("requestBody", {}).get("content", {}).values():
                for example in content["examples"].values():
                    jsonschema.validate(example["value"], resolved(document, content["schema"]))
                    answer = await gateway.request(method, path.format(id="order-17"), json=example["value"])
                    assert answer.status_code in (200, 202), (path, answer.text)
                    told = operation["responses"][str(answer.status_code)]["content"]["application/json"]
                    jsonschema.validate(answer.json(), resolved(document, told["schema"]))
                    sent += 1
    assert sent >= 5


@pytest.mark.usefixtures("fake_worker")
async def test_the_answers_shown_have_the_shape_of_real_ones(gateway: httpx.AsyncClient) -> None:
    document = (await gateway.get("/openapi.json")).json()
    analyze = document["paths"]["/v1/analyze"]["post"]
    first = analyze["requestBody"]["content"]["application/json"]["examples"]["example 1"]["value"]
    real = (await gateway.post("/v1/analyze", json=first)).json()
    shown = analyze["responses"]["200"]["content"]["application/json"]["example"]
    assert shape(shown) == shape(real)
    batch = document["paths"]["/v1/batch"]["post"]
    [example] = batch["requestBody"]["content"]["application/json"]["examples"].values()
    real = (await gateway.post("/v1/batch", json=example["value"])).json()
    schemas = document["components"]["schemas"]
    assert real["ids"] == schemas["BatchAccepted"]["properties"]["ids"]["examples"][0]
    rejected = {name: part["examples"][0] for name, part in schemas["Rejected"]["properties"].items()}
    assert real["rejected"] == [rejected]
    status = (await gateway.get("/v1/status")).json()
    [live] = schemas["Status"]["examples"]
    assert set(live) == set(status)
    assert set(live["queues"][0]) == set(status["queues"][0])


async def test_the_id_of_a_request_is_in_the_workers_line_of_its_job(
    gateway: httpx.AsyncClient, start_fake_worker: Any
) -> None:
    worker = start_fake_worker(MOODQ_LOG_FORMAT="json")
    headers = {"X-Request-Id": "shop-2026.17"}
    answer = await gateway.post("/v1/analyze", json={"id": "a", "text": "fine"}, headers=headers)
    assert answer.headers["X-Request-Id"] == "shop-2026.17"
    deadline = time.monotonic() + 10
    while True:
        lines = [json.loads(line) for line in worker.log.read_text("utf-8").splitlines()]
        jobs = [line for line in lines if line.get("event.action") == "job"]
        if jobs:
            break
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    assert (jobs[0]["moodq.job.id"], jobs[0]["http.request.id"]) == ("a", "shop-2026.17")
