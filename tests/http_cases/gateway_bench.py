"""``python -m tests.http_cases.gateway_bench``: what HTTP costs over the client, and 200 users at once.

One run, one worker with the fake engine, the client and the gateway taking turns, text by text: the
difference of their medians is the gateway's own. Then users that send, wait, follow and ask for two minutes:
every answer must be right, or an honest 429 or 503. Writes build/bench/gateway.json.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import click
import httpx

from moodq_producer import AsyncClient

from .processes import gateway_running

LATEST = Path("build/bench/gateway.json")
TEXT = "My package arrived broken and nobody answers."
HONEST = {429, 503}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--rounds", default=500, show_default=True, help="Texts of each way, one at a time.")
@click.option("--users", default=200, show_default=True, help="At the same time.")
@click.option("--seconds", default=120.0, show_default=True, help="That they go on.")
def main(rounds: int, users: int, seconds: float) -> None:
    """Measure the gateway's overhead, then load it.

    \b
    Exit codes: 0 no answer was wrong; 1 one was.
    """
    with gateway_running() as (url, redis_url):
        document: dict[str, Any] = {"overhead": asyncio.run(overhead(url, redis_url, rounds))}
        click.echo(json.dumps(document["overhead"]))
        document["load"] = asyncio.run(load(url, users, seconds))
        click.echo(json.dumps(document["load"]))
    LATEST.parent.mkdir(parents=True, exist_ok=True)
    LATEST.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    sys.exit(1 if document["load"]["wrong"] else 0)


async def overhead(url: str, redis_url: str, rounds: int) -> dict[str, Any]:
    """Milliseconds from text to result, by client and by HTTP in turn; and of a route that asks Redis for
    nothing."""
    taken: dict[str, list[float]] = {"client": [], "http": [], "tasks": []}

    async with AsyncClient(redis_url) as client, httpx.AsyncClient(base_url=url, timeout=30) as http:

        async def by_client() -> None:
            result = await (await client.submit(TEXT)).wait(30)
            assert result.status == "done"

        async def by_http() -> None:
            answer = await http.post("/v1/analyze", json={"text": TEXT})
            assert answer.status_code == 200
            assert answer.json()["status"] == "done"

        async def tasks() -> None:
            assert (await http.get("/v1/tasks")).status_code == 200

        ways = {"client": by_client, "http": by_http, "tasks": tasks}
        for number in range(rounds + 20):
            for name in random.sample(list(ways), len(ways)):
                began = time.perf_counter()
                await ways[name]()
                if number >= 20:  # the first open connections
                    taken[name].append(1000 * (time.perf_counter() - began))
    found = {f"{name}_p50_ms": round(median(values), 3) for name, values in taken.items()}
    found |= {f"{name}_p95_ms": round(quantiles(values, n=20)[-1], 3) for name, values in taken.items()}
    return found | {"overhead_p50_ms": round(found["http_p50_ms"] - found["client_p50_ms"], 3)}


class Load:
    """What users meet: answers by route and status, and those that are wrong."""

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.refused: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.waits_ms: list[float] = []

    def saw(self, route: str, answer: httpx.Response, expected: set[int]) -> bool:
        """Whether the answer is what was asked for."""
        status = answer.status_code
        self.answers[f"{route} {status}"] += 1
        if status in HONEST and "Retry-After" in answer.headers:
            self.refused[f"{route} {answer.json()['code']}"] += 1
            return False
        if status not in expected and len(self.wrong) < 20:
            self.wrong.append(f"{route} {status}: {answer.text[:300]}")
        return status in expected

    async def analyze(self, http: httpx.AsyncClient, id: str) -> None:
        began = time.perf_counter()
        answer = await http.post("/v1/analyze", json={"id": id, "text": TEXT, "wait_s": 30})
        if self.saw("analyze", answer, {200, 202}) and answer.status_code == 200:
            self.waits_ms.append(1000 * (time.perf_counter() - began))
            if answer.json()["results"]["sentiment"]["label"] not in ("positive", "negative"):
                self.wrong.append(answer.text[:300])

    async def job(self, http: httpx.AsyncClient, id: str) -> None:
        answer = await http.post("/v1/jobs", json={"id": id, "text": TEXT, "tasks": ["sentiment", "reply"]})
        if not self.saw("jobs", answer, {202}):
            return
        async with http.stream("GET", f"/v1/stream/{id}") as stream:
            body = (await stream.aread()).decode()  # also what makes a refusal readable
            if self.saw("stream", stream, {200}) and "event: done" not in body:
                self.wrong.append(f"a stream without an end: {body[-300:]}")
        self.saw("results", await http.get(f"/v1/results/{id}"), {200})

    async def batch(self, http: httpx.AsyncClient, id: str) -> None:
        items = [{"id": f"{id}-{number}", "text": f"{TEXT} {number}"} for number in range(20)]
        answer = await http.post("/v1/batch", json={"items": items})
        if self.saw("batch", answer, {202}):
            ids = ",".join(answer.json()["ids"])
            self.saw("results?ids", await http.get("/v1/results", params={"ids": ids}), {200})

    async def look(self, http: httpx.AsyncClient, id: str) -> None:
        self.saw("status", await http.get("/v1/status"), {200})


async def load(url: str, users: int, seconds: float) -> dict[str, Any]:
    """Users who do one thing after another, with pauses of people."""
    found, until = Load(), time.monotonic() + seconds
    ways = [found.analyze] * 6 + [found.job] * 2 + [found.batch, found.look]

    async def user(number: int) -> None:
        async with httpx.AsyncClient(base_url=url, timeout=60) as http:
            turn = 0
            while time.monotonic() < until:
                turn += 1
                try:
                    await random.choice(ways)(http, f"u{number}-{turn}")
                except httpx.HTTPError as error:
                    if len(found.wrong) < 20:
                        found.wrong.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(random.uniform(0.1, 1.0))

    await asyncio.gather(*map(user, range(users)))
    requests = sum(found.answers.values())
    return {
        "users": users,
        "seconds": seconds,
        "requests": requests,
        "requests_per_s": round(requests / seconds, 1),
        "answers": dict(sorted(found.answers.items())),
        "refused": dict(found.refused),
        "analyze_p50_ms": round(median(found.waits_ms), 1),
        "analyze_p95_ms": round(quantiles(found.waits_ms, n=20)[-1], 1),
        "wrong": found.wrong,
    }


if __name__ == "__main__":
    main()
