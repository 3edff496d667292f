"""A gateway in this process, on a port of its own, and a reader of its event streams."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from moodq_config.settings import load_settings
from moodq_producer.gateway.serving import GatewayServer, make_server, url_of

JSON = {"Content-Type": "application/json"}
LONG_S = 60.0


@asynccontextmanager
async def serving(**settings: Any) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client of a gateway of these settings, which listens on a free port."""
    async with served(**settings) as (_, url), httpx.AsyncClient(base_url=url, timeout=LONG_S) as client:
        yield client


@asynccontextmanager
async def served(**settings: Any) -> AsyncGenerator[tuple[GatewayServer, str], None]:
    """A gateway of these settings, and where it listens."""
    made = load_settings(**{"gateway_port": 0, **settings})
    server, listening = make_server(made)
    task = asyncio.create_task(server.serve([listening]))
    try:
        while not server.started:
            await asyncio.sleep(0.01)
            assert not task.done()
        yield server, url_of(made, listening)
    finally:
        server.should_exit = True
        await task
        listening.close()


@dataclass(frozen=True)
class Seen:
    """One event as a browser sees it."""

    event: str
    id: str | None
    data: Any


async def events(response: httpx.Response) -> AsyncIterator[Seen | str]:
    """The events of a stream, and its comments as strings."""
    fields: dict[str, str] = {}
    async for line in response.aiter_lines():
        if line.startswith(":"):
            yield line
        elif line:
            name, _, value = line.partition(": ")
            fields[name] = value
        else:
            if "data" in fields:
                yield Seen(fields["event"], fields.get("id"), json.loads(fields["data"]))
            fields = {}


async def followed(client: httpx.AsyncClient, id: str, after: str | None = None) -> list[Seen]:
    """All events of a stream, from after ``after``."""
    headers = {"Last-Event-ID": after} if after else {}
    async with client.stream("GET", f"/v1/stream/{id}", headers=headers) as response:
        assert response.status_code == 200, await response.aread()
        assert response.headers["content-type"].startswith("text/event-stream")
        return [seen async for seen in events(response) if isinstance(seen, Seen)]


def problem_of(response: httpx.Response) -> dict[str, Any]:
    """The problem document of an answer, checked to be one."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    found: dict[str, Any] = response.json()
    assert found["status"] == response.status_code
    assert found["type"] == f"urn:moodq:problem:{found['code']}"
    assert found["title"]
    assert found["detail"]
    return found
