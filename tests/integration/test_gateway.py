"""The gateway's routes on real servers: texts in, results out, and what is refused, with which problem."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from redis import Redis

from integration.gateway_server import JSON, Seen, followed, problem_of, serving
from moodq_config.contracts import Result
from moodq_config.tasks import load_tasks
from moodq_producer import AsyncClient

Start = Callable[..., Any]
NOBODY_WORKS = {"wait_s": 0.2}


@pytest.fixture
async def gateway(redis_url: str) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(redis_url=redis_url) as client:
        yield client


@pytest.mark.usefixtures("fake_worker")
async def test_a_text_is_sent_and_its_result_comes_as_it_stands_in_redis(
    gateway: httpx.AsyncClient, connection: Redis
) -> None:
    body = {"text": "a terrible day", "tasks": ["sentiment", "reply"], "metadata": {"order": 17, "x": None}}
    answer = await gateway.post("/v1/analyze", json=body)
    assert answer.status_code == 200
    found = Result.model_validate(answer.json())
    assert found.results["sentiment"].model_dump()["label"] == "negative"
    assert found.metadata == body["metadata"]
    assert answer.json() == json.loads(connection.get(f"moodq:result:{found.id}") or b"")
    assert (await gateway.get(f"/v1/results/{found.id}")).json() == answer.json()


@pytest.mark.usefixtures("fake_worker")
async def test_a_trace_goes_on_from_the_request_s_header_unless_the_text_brings_its_own(
    gateway: httpx.AsyncClient,
) -> None:
    header, own = (f"00-{digit * 32}-{digit * 16}-01" for digit in "ab")
    headers = {"traceparent": header}
    answer = await gateway.post("/v1/analyze", json={"text": "a fine day"}, headers=headers)
    assert answer.json()["trace"] == "a" * 32
    answer = await gateway.post("/v1/analyze", json={"text": "a day", "traceparent": own}, headers=headers)
    assert answer.json()["trace"] == "b" * 32
    answer = await gateway.post("/v1/analyze", json={"text": "a bad day"}, headers={"traceparent": "?"})
    assert answer.status_code == 200
    assert "trace" not in answer.json()


@pytest.mark.usefixtures("fake_worker")
async def test_sentiment_is_asked_for_when_no_task_is_named(gateway: httpx.AsyncClient) -> None:
    answer = await gateway.post("/v1/analyze", json={"text": "太棒了！"})
    assert list(answer.json()["results"]) == ["sentiment"]


async def test_a_wait_that_ends_first_says_where_the_result_will_be(
    gateway: httpx.AsyncClient, start_fake_worker: Start
) -> None:
    answer = await gateway.post("/v1/analyze", json={"id": "a", "text": "x", **NOBODY_WORKS})
    assert answer.status_code == 202
    assert answer.json() == {"id": "a", "status": "queued"}
    place = answer.headers["Location"]
    assert (await gateway.get(place)).json() == {"id": "a", "status": "queued"}
    start_fake_worker()
    answer = await gateway.post("/v1/analyze", json={"id": "a", "text": "x", "wait_s": 30})
    assert answer.status_code == 200
    assert (await gateway.get(place)).status_code == 200


async def test_a_text_that_is_worked_on_is_running(
    gateway: httpx.AsyncClient, start_fake_worker: Start
) -> None:
    start_fake_worker()
    body = {"id": "slow", "text": "[[sleep 1.5]] x"}
    assert (await gateway.post("/v1/jobs", json=body)).status_code == 202
    for _ in range(200):
        answer = await gateway.get("/v1/results/slow")
        if answer.json()["status"] == "running":
            break
        await asyncio.sleep(0.01)
    assert answer.status_code == 202
    assert answer.json() == {"id": "slow", "status": "running"}


async def test_the_same_idempotency_key_is_one_job(gateway: httpx.AsyncClient, connection: Redis) -> None:
    headers = {"Idempotency-Key": "order-17"}
    answers = await asyncio.gather(
        *(gateway.post("/v1/jobs", json={"text": "x"}, headers=headers) for _ in range(8))
    )
    assert {answer.json()["id"] for answer in answers} == {"order-17"}
    assert connection.llen("rq:queue:interactive") == 1
    own = await gateway.post("/v1/jobs", json={"id": "mine", "text": "x"}, headers=headers)
    assert own.json()["id"] == "mine"


async def test_a_job_goes_to_the_queue_it_names(gateway: httpx.AsyncClient, connection: Redis) -> None:
    await gateway.post("/v1/jobs", json={"text": "x", "queue": "bulk"})
    assert connection.llen("rq:queue:bulk") == 1
    refused = problem_of(await gateway.post("/v1/jobs", json={"text": "x", "queue": "fast"}))
    assert (refused["status"], refused["code"], refused["field"]) == (422, "invalid_field", "queue")


async def test_a_cancelled_text_is_not_run_and_an_ended_one_has_ended(
    gateway: httpx.AsyncClient, start_fake_worker: Start
) -> None:
    await gateway.post("/v1/jobs", json={"id": "a", "text": "x"})
    assert (await gateway.delete("/v1/jobs/a")).json() == {"id": "a", "status": "cancelled"}
    assert (await gateway.get("/v1/results/a")).json()["error"]["code"] == "cancelled"
    start_fake_worker()
    await gateway.post("/v1/analyze", json={"id": "b", "text": "x"})
    assert (await gateway.delete("/v1/jobs/b")).json() == {"id": "b", "status": "ended"}


async def test_a_batch_is_one_job_whose_items_can_be_asked_after_one_by_one(
    gateway: httpx.AsyncClient, connection: Redis, start_fake_worker: Start
) -> None:
    items = [{"id": "a", "text": "fine"}, {"text": " "}, {"id": "b.1", "text": "bad"}, 7, {"text": "so"}]
    headers = {"Idempotency-Key": "import"}
    answer = await gateway.post("/v1/batch", json={"items": items}, headers=headers)
    assert answer.status_code == 202
    found = answer.json()
    assert found["ids"] == ["a", "b.1", "import-4"]
    assert [(one["index"], one["code"]) for one in found["rejected"]] == [
        (1, "empty_text"),
        (3, "invalid_field"),
    ]
    assert connection.lrange("rq:queue:bulk", 0, -1) == [found["job"].encode()]
    assert (await gateway.get("/v1/results/b.1")).json() == {"id": "b.1", "status": "queued"}
    assert (await gateway.get("/v1/results", params={"ids": "a,b.1"})).json() == {
        "results": {"a": None, "b.1": None}
    }
    start_fake_worker()
    labels = {}
    for id in found["ids"]:
        [seen] = await followed(gateway, id)
        labels[id] = seen.data["results"]["sentiment"]["label"]
    assert labels == {"a": "positive", "b.1": "negative", "import-4": "positive"}
    together = (await gateway.get("/v1/results", params={"ids": "a,b.1,nobody"})).json()["results"]
    assert [together[id] and together[id]["id"] for id in together] == ["a", "b.1", None]


async def test_a_batch_of_which_nothing_is_right_is_refused(
    gateway: httpx.AsyncClient, connection: Redis
) -> None:
    refused = problem_of(await gateway.post("/v1/batch", json={"items": [{"text": ""}]}))
    assert refused["status"] == 422
    assert refused["rejected"][0]["code"] == "empty_text"
    assert connection.dbsize() == 0


WRONG = [
    (b"{", 400, "broken_json"),
    (b"[1]", 400, "broken_json"),
    (b'{"text": NaN}', 400, "broken_json"),
    (b"[" * 100_000, 400, "broken_json"),
    (b'{"text": "\xff"}', 422, "invalid_utf8"),
    (b'{"text": "\\ud800"}', 422, "invalid_utf8"),
    (b'{"text": " "}', 422, "empty_text"),
    (b'{"text": "x", "tasks": ["nothing"]}', 422, "unknown_task"),
    (b'{"text": "x", "tasks": []}', 422, "invalid_field"),
    (b'{"text": "x", "colour": 1}', 422, "invalid_field"),
    (b'{"text": "x", "wait_s": 1e9}', 422, "invalid_field"),
    (b'{"text": "x", "wait_s": 1e999}', 422, "invalid_field"),
    (b'{"text": "x", "wait_s": true}', 422, "invalid_field"),
    (b'{"text": "x", "id": "a b"}', 422, "invalid_field"),
    (json.dumps({"text": "x" * 8_001}).encode(), 413, "text_too_long"),
    (json.dumps({"text": "x" * 2**20}).encode(), 413, "body_too_large"),
]


async def test_what_is_wrong_is_told_with_its_code(gateway: httpx.AsyncClient, connection: Redis) -> None:
    for body, status, code in WRONG:
        refused = problem_of(await gateway.post("/v1/analyze", content=body, headers=JSON))
        assert (refused["status"], refused["code"]) == (status, code), body[:80]
    assert connection.dbsize() == 0


async def test_limits_and_fields_are_named(gateway: httpx.AsyncClient) -> None:
    long = problem_of(await gateway.post("/v1/analyze", json={"text": "x" * 8_001}))
    assert (long["field"], long["limit"]) == ("text", 8_000)
    wrong = problem_of(await gateway.post("/v1/analyze", json={"text": "x", "lang": "fr"}))
    assert wrong["field"] == "lang"
    waits = problem_of(await gateway.post("/v1/analyze", json={"text": "x", "wait_s": 31}))
    assert (waits["field"], waits["limit"]) == ("wait_s", 30)


async def test_another_sites_page_cannot_post_a_form(gateway: httpx.AsyncClient, connection: Redis) -> None:
    headers = {"Content-Type": "text/plain", "Origin": "https://elsewhere.example"}
    refused = await gateway.post("/v1/jobs", content=b'{"text": "x"}', headers=headers)
    assert problem_of(refused)["code"] == "unsupported_media_type"
    asked = await gateway.options("/v1/jobs", headers={**headers, "Access-Control-Request-Method": "POST"})
    assert not [name for name in asked.headers if name.startswith("access-control")]
    assert connection.dbsize() == 0


async def test_what_is_not_there_is_a_problem_too(gateway: httpx.AsyncClient) -> None:
    for path in ("/v1/results/nobody", "/v1/stream/nobody", "/v1/elsewhere", "/index.php"):
        assert problem_of(await gateway.get(path))["code"] == "not_found"


async def test_an_id_that_is_none_is_refused_before_redis_is_asked(gateway: httpx.AsyncClient) -> None:
    assert problem_of(await gateway.get("/v1/results/a%20b"))["code"] == "invalid_field"
    assert problem_of(await gateway.get("/v1/results", params={"ids": "a,,b"}))["code"] == "invalid_field"
    many = ",".join(map(str, range(1_001)))
    assert problem_of(await gateway.get("/v1/results", params={"ids": many}))["code"] == "too_many_items"


async def test_a_full_queue_is_503_and_says_when_to_come_back(redis_url: str, connection: Redis) -> None:
    async with serving(redis_url=redis_url, max_queue_length=1) as gateway:
        assert (await gateway.post("/v1/jobs", json={"text": "x"})).status_code == 202
        answer = await gateway.post("/v1/jobs", json={"text": "y"})
        assert problem_of(answer)["code"] == "queue_full"
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    async with serving(redis_url=redis_url, max_items_per_s=0.1, client_name="slow") as gateway:
        assert (await gateway.post("/v1/jobs", json={"text": "x"})).status_code == 202
        answer = await gateway.post("/v1/jobs", json={"text": "y"})
        assert problem_of(answer)["code"] == "rate_limited"
        assert answer.status_code == 429
        assert 8 <= int(answer.headers["Retry-After"]) <= 10


async def test_a_redis_that_is_away_is_503_without_its_password() -> None:
    async with serving(redis_url="redis://user:hunter2@127.0.0.1:1/0") as gateway:
        for answer in (
            await gateway.post("/v1/jobs", json={"text": "x"}),
            await gateway.get("/v1/results/a"),
            await gateway.get("/v1/stream/a"),
            await gateway.get("/v1/status"),
            await gateway.get("/readyz"),
        ):
            assert problem_of(answer)["code"] == "redis_unreachable"
            assert answer.status_code == 503
            assert "hunter2" not in answer.text
        assert (await gateway.get("/healthz")).status_code == 200


async def test_a_fault_is_a_problem_without_its_words(
    gateway: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*args: object, **more: object) -> str:
        raise RuntimeError("password=hunter2")

    monkeypatch.setattr(AsyncClient, "submit_items", broken)
    answer = await gateway.post("/v1/jobs", json={"text": "x"}, headers={"X-Request-Id": "r-1"})
    assert problem_of(answer)["code"] == "internal"
    assert answer.status_code == 500
    assert "hunter2" not in answer.text
    assert answer.headers["X-Request-Id"] == "r-1"
    assert "request r-1 failed" in caplog.text


async def test_every_answer_has_the_security_headers_and_a_request_id(gateway: httpx.AsyncClient) -> None:
    for path in ("/", "/v1/tasks", "/v1/results/nobody", "/healthz", "/openapi.json", "/elsewhere"):
        headers = (await gateway.get(path, headers={"X-Request-Id": "bad id\u0009!"})).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'self'; object-src 'none'")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert len(headers["X-Request-Id"]) == 32  # made anew: what came was no id
        assert "server" not in headers


async def test_a_request_is_in_the_log_once_with_its_id_and_without_its_text(
    gateway: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="moodq_producer.gateway"):
        await gateway.post("/v1/jobs", json={"text": "secret words"}, headers={"X-Request-Id": "r-2"})
    lines = [line for line in caplog.text.splitlines() if "r-2" in line]
    assert len(lines) == 1
    assert "POST /v1/jobs 202 in" in lines[0]
    assert "secret words" not in caplog.text


async def test_the_tasks_are_those_of_the_file(gateway: httpx.AsyncClient) -> None:
    shown = {task["name"]: task for task in (await gateway.get("/v1/tasks")).json()["tasks"]}
    assert set(shown) == set(load_tasks())
    assert shown["sentiment"]["labels"] == ["positive", "negative"]
    assert shown["reply"]["kind"] == "generate"
    assert shown["topic"]["needs"] == "labels"
    assert all(task["title"] for task in shown.values())


async def test_it_is_ready_once_a_worker_lives(gateway: httpx.AsyncClient, start_fake_worker: Start) -> None:
    refused = await gateway.get("/readyz")
    assert problem_of(refused)["code"] == "no_worker"
    assert refused.status_code == 503
    start_fake_worker()
    assert (await gateway.get("/readyz")).json() == {"status": "ok"}


async def test_the_status_counts_what_waits(gateway: httpx.AsyncClient, connection: Redis) -> None:
    await gateway.post("/v1/jobs", json={"text": "x"})
    await gateway.post("/v1/jobs", json={"text": "y"})
    connection.hset("rq:job:nothing", mapping={"enqueued_at": "garbage"})
    connection.rpush("rq:queue:bulk", "nothing")
    found = (await gateway.get("/v1/status")).json()
    assert found["workers"] == 0
    assert found["model"] is None
    interactive, bulk = found["queues"]
    assert (interactive["name"], interactive["length"]) == ("interactive", 2)
    assert 0 <= interactive["oldest_age_s"] < 60
    assert bulk == {"name": "bulk", "length": 1, "oldest_age_s": None, "latency_s": None}


async def test_metrics_count_by_route_and_status_and_name_no_id(gateway: httpx.AsyncClient) -> None:
    await gateway.get("/v1/results/some-id")
    await gateway.get("/some/secret/path")
    text = (await gateway.get("/metrics")).text
    assert 'moodq_gateway_requests_total{route="/v1/results/{id}",status="404"} 1.0' in text
    assert 'moodq_gateway_requests_total{route="other",status="404"} 1.0' in text
    assert 'moodq_gateway_request_latency_seconds_count{route="/v1/results/{id}"} 1.0' in text
    assert "some" not in text


@pytest.mark.usefixtures("fake_worker")
async def test_label_tokens_and_result_are_followed_in_this_order(gateway: httpx.AsyncClient) -> None:
    body = {"id": "a", "text": "a bad day with many words", "tasks": ["sentiment", "reply"]}
    await gateway.post("/v1/jobs", json=body)
    seen = await followed(gateway, "a")
    assert [one.event for one in seen] == ["label", *["token"] * (len(seen) - 2), "done"]
    assert seen[0].data["sentiment"]["label"] == "negative"
    reply = seen[-1].data["results"]["reply"]["text"]
    assert "".join(one.data["text"] for one in seen[1:-1]).strip() == reply
    assert all(isinstance(one, Seen) and one.id for one in seen)
