"""The whole way of a text through a real server and a worker process, with the fake engine."""

from __future__ import annotations

import json
import signal
import socket
import time
import urllib.error
import urllib.request
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from rq import Queue
from rq.registry import FailedJobRegistry, FinishedJobRegistry, StartedJobRegistry
from rq.serializers import JSONSerializer

from moodq_config.names import JOB_FUNCTION, events_key, result_key


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Start = Callable[..., Any]
WAIT_S = 30.0


def enqueue(
    connection: Any, items: list[Any], *, queue: str = "interactive", job_id: str | None = None, v: Any = 1
) -> str:
    job = Queue(queue, connection=connection, serializer=JSONSerializer).enqueue_call(
        JOB_FUNCTION, args=({"v": v, "items": items},), job_id=job_id, timeout=-1, result_ttl=600
    )
    return str(job.id)


def result(connection: Any, item_id: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
    """The result of an item, waited for as docs/protocol.md says."""
    last = b"0"
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        for _, entries in connection.xread({events_key(item_id): last}, block=1000) or []:
            for entry_id, fields in entries:
                last = entry_id
                if fields[b"event"] == b"done":
                    stored = connection.get(result_key(item_id))
                    assert stored == fields[b"data"]
                    return dict(json.loads(fields[b"data"]))
    raise AssertionError(f"no result for {item_id} within {timeout_s} s")


def until(condition: Callable[[], bool], timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the awaited state did not come"
        time.sleep(0.05)


def test_a_text_comes_back_with_its_label_and_reply(connection: Any, start_fake_worker: Start) -> None:
    start_fake_worker()
    enqueue(
        connection, [{"id": "a", "text": " all fine ", "tasks": ["sentiment", "reply"], "metadata": {"n": 1}}]
    )
    found = result(connection, "a")
    assert found["status"] == "done"
    assert found["results"]["sentiment"]["label"] == "positive"
    assert sum(found["results"]["sentiment"]["scores"].values()) == pytest.approx(1.0)
    assert found["results"]["reply"] == {"text": "echo: all fine", "finish_reason": "stop", "tokens": 3}
    assert found["metadata"] == {"n": 1}
    assert found["attempt"] == 1
    assert set(found["timings_ms"]) == {"queue", "batch", "prefill", "decode", "total"}
    assert 0 < connection.ttl(result_key("a")) <= 3600
    assert 0 < connection.ttl(events_key("a")) <= 3600


def test_a_label_computed_only_to_steer_the_reply_is_not_in_the_result(
    connection: Any, start_fake_worker: Start
) -> None:
    start_fake_worker()
    enqueue(connection, [{"id": "only-reply", "text": "hello there", "tasks": ["reply"]}])
    assert list(result(connection, "only-reply")["results"]) == ["reply"]


BAD_ITEMS: list[tuple[str, Any, str, str]] = [
    ("empty", {"text": "  \n ", "tasks": ["sentiment"]}, "empty_text", "at least one"),
    ("long", {"text": "x" * 8001, "tasks": ["sentiment"]}, "text_too_long", "8000"),
    ("surrogate", {"text": "a \ud800 b", "tasks": ["sentiment"]}, "invalid_utf8", "UTF-8"),
    ("unknown", {"text": "fine", "tasks": ["sentimentt"]}, "unknown_task", "sentiment"),
    ("no-tasks", {"text": "fine", "tasks": []}, "invalid_field", "tasks"),
    ("extra", {"text": "fine", "tasks": ["sentiment"], "model": "x"}, "invalid_field", "model"),
    (
        "meta",
        {"text": "fine", "tasks": ["sentiment"], "metadata": {"k": "v" * 5000}},
        "invalid_field",
        "4096",
    ),
]


def test_a_message_does_not_wait_for_a_batch_of_bulk(connection: Any, fake_worker: Any) -> None:
    enqueue(connection, [{"id": "slow", "text": "[[sleep 4]]", "tasks": ["sentiment"]}], queue="bulk")
    until(lambda: bool(connection.zcard("rq:wip:bulk")))
    time.sleep(0.3)  # the engine is at it
    enqueue(connection, [{"id": "quick", "text": "good", "tasks": ["sentiment"]}])
    assert result(connection, "quick")["status"] == "done"
    assert connection.get(result_key("slow")) is None, "the message should not have waited for it"
    assert result(connection, "slow")["status"] == "done"


def test_what_fails_between_the_layers_of_a_batch_fails_alone(connection: Any, fake_worker: Any) -> None:
    enqueue(connection, [{"id": "slow", "text": "[[sleep 3]]", "tasks": ["sentiment"]}], queue="bulk")
    until(lambda: bool(connection.zcard("rq:wip:bulk")))
    time.sleep(0.3)
    enqueue(connection, [{"id": "broken", "text": "[[raise]]", "tasks": ["sentiment"]}])
    assert result(connection, "broken")["error"]["code"] == "engine_failed"
    assert connection.get(result_key("slow")) is None
    assert result(connection, "slow")["status"] == "done"


def test_two_workers_share_one_queue_fairly(connection: Any, start_fake_worker: Start) -> None:
    start_fake_worker()
    start_fake_worker()
    ids = [f"shared-{number}" for number in range(1_200)]
    for start in range(0, len(ids), 10):
        items = [
            {"id": id, "text": f"[[sleep 0.2]] {id}", "tasks": ["sentiment"]}
            for id in ids[start : start + 10]
        ]
        enqueue(connection, items, queue="bulk")
    keys = [result_key(id) for id in ids]
    until(lambda: connection.exists(*keys) == len(keys), timeout_s=60)
    done = Counter(json.loads(value)["worker"] for value in connection.mget(keys))
    assert len(done) == 2
    assert min(done.values()) >= len(ids) * 0.3, done


def test_each_bad_item_gets_its_own_code_and_its_neighbours_succeed(
    connection: Any, start_fake_worker: Start
) -> None:
    start_fake_worker()
    items: list[Any] = [{"id": "before", "text": "fine", "tasks": ["sentiment"]}]
    items += [{"id": name, **item} for name, item, _, _ in BAD_ITEMS]
    items += ["not an object", {"id": "after", "text": "bad day", "tasks": ["sentiment"]}]
    job_id = enqueue(connection, items)
    assert result(connection, "before")["status"] == "done"
    assert result(connection, "after")["results"]["sentiment"]["label"] == "negative"
    for name, _, code, hint in BAD_ITEMS:
        found = result(connection, name)
        assert (found["status"], found["error"]["code"]) == ("failed", code)
        assert hint in found["error"]["message"]
    assert result(connection, f"{job_id}-{len(items) - 2}")["error"]["code"] == "invalid_field"
    registry = FinishedJobRegistry("interactive", connection=connection)
    until(lambda: job_id in registry.get_job_ids(cleanup=False))


def test_text_with_invalid_utf8_bytes_fails_alone(connection: Any, start_fake_worker: Start) -> None:
    start_fake_worker()
    job_id = enqueue(
        connection,
        [
            {"id": "raw", "text": "AAA", "tasks": ["sentiment"]},
            {"id": "clean", "text": "fine", "tasks": ["sentiment"]},
        ],
        queue="parked",
    )
    key = f"rq:job:{job_id}"
    data = zlib.decompress(connection.hget(key, "data")).replace(b"AAA", b"A\xff\xfe")
    connection.hset(key, mapping={"data": data, "origin": "interactive"})
    connection.rpush("rq:queue:interactive", job_id)
    assert result(connection, "raw")["error"]["code"] == "invalid_utf8"
    assert result(connection, "clean")["status"] == "done"


def test_a_job_that_is_wrong_as_a_whole_is_failed_with_its_code_while_others_go_on(
    connection: Any, start_fake_worker: Start
) -> None:
    start_fake_worker()
    good = [{"id": "good", "text": "fine", "tasks": ["sentiment"]}]
    wrong = enqueue(connection, [{"id": "old", "text": "fine", "tasks": ["sentiment"]}], v=99)
    broken = enqueue(connection, good, queue="parked", job_id="broken")
    connection.hset(f"rq:job:{broken}", mapping={"data": b"{not json", "origin": "interactive"})
    connection.rpush("rq:queue:interactive", broken)
    enqueue(connection, good)
    assert result(connection, "old")["error"]["code"] == "wrong_version"
    assert result(connection, "broken")["error"]["code"] == "broken_json"
    assert result(connection, "good")["status"] == "done"
    failed = FailedJobRegistry("interactive", connection=connection)
    until(lambda: {wrong, broken} <= set(failed.get_job_ids(cleanup=False)))


def test_an_item_that_makes_the_model_fail_fails_alone_after_its_attempts(
    connection: Any, start_fake_worker: Start
) -> None:
    start_fake_worker()
    items = [{"id": f"n{n}", "text": f"text {n}", "tasks": ["sentiment"]} for n in range(9)]
    items[4]["text"] = "[[raise]]"
    items[7]["text"] = "[[nan]]"
    enqueue(connection, items)
    outcomes = {item["id"]: result(connection, str(item["id"]))["status"] for item in items}
    assert [name for name, status in outcomes.items() if status == "failed"] == ["n4", "n7"]
    assert result(connection, "n4")["error"]["code"] == "engine_failed"


def test_an_id_that_has_a_result_is_not_run_again(connection: Any, start_fake_worker: Start) -> None:
    start_fake_worker()
    enqueue(connection, [{"id": "same", "text": "fine", "tasks": ["sentiment"]}])
    first = result(connection, "same")
    job_id = enqueue(connection, [{"id": "same", "text": "bad bad", "tasks": ["sentiment"]}])
    registry = FinishedJobRegistry("interactive", connection=connection)
    until(lambda: job_id in registry.get_job_ids(cleanup=False))
    assert json.loads(connection.get(result_key("same")) or b"") == first


def test_nothing_is_lost_when_a_worker_is_killed_in_the_middle_of_a_batch(
    connection: Any, start_fake_worker: Start
) -> None:
    victim = start_fake_worker(MOODQ_LEASE_S="2")
    ids = [f"k{n}" for n in range(40)]
    enqueue(connection, [{"id": ids[0], "text": "[[sleep 4]] held", "tasks": ["sentiment"]}])
    started = StartedJobRegistry("interactive", connection=connection)
    until(lambda: connection.zcard(started.key) == 1)
    for item_id in ids[1:]:
        enqueue(connection, [{"id": item_id, "text": "held as well", "tasks": ["sentiment"]}])
    until(lambda: connection.zcard(started.key) == len(ids))
    victim.kill()
    assert connection.get(result_key(ids[0])) is None
    start_fake_worker(MOODQ_LEASE_S="2")
    for item_id in ids[1:]:
        assert result(connection, item_id, timeout_s=60)["status"] == "done"
    attempts = {result(connection, item_id)["attempt"] for item_id in ids[1:]}
    assert attempts == {2}


def test_sigterm_finishes_what_runs_puts_back_the_rest_and_exits_with_0(
    connection: Any, start_fake_worker: Start
) -> None:
    worker = start_fake_worker(MOODQ_BATCH_TOKENS="64")
    enqueue(connection, [{"id": "running", "text": "[[sleep 2]] on", "tasks": ["sentiment"]}])
    started = StartedJobRegistry("interactive", connection=connection)
    until(lambda: connection.zcard(started.key) == 1)
    time.sleep(0.3)
    enqueue(connection, [{"id": "waiting", "text": "w" * 60, "tasks": ["sentiment"]}])
    until(lambda: connection.zcard(started.key) == 2)
    worker.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    late = enqueue(connection, [{"id": "late", "text": "after the signal", "tasks": ["sentiment"]}])
    assert worker.process.wait(timeout=WAIT_S) == 0
    assert result(connection, "running")["status"] == "done"
    assert connection.get(result_key("late")) is None
    assert connection.zcard(started.key) == 0
    waiting = connection.lrange("rq:queue:interactive", 0, -1)
    assert waiting[-1].decode() == late
    assert len(waiting) == 2
    start_fake_worker()
    assert result(connection, "waiting")["attempt"] == 1
    assert result(connection, "late")["status"] == "done"


def test_a_text_of_a_started_job_that_flies_with_one_not_started_is_finished_by_the_drain(
    connection: Any, start_fake_worker: Start
) -> None:
    worker = start_fake_worker(MOODQ_BATCH_TOKENS="64")
    same = "the same text twice, with a reply " + "s" * 20
    both = ["sentiment", "reply"]
    enqueue(connection, [{"id": "running", "text": "[[sleep 1]] on", "tasks": ["sentiment"]}])
    started = StartedJobRegistry("interactive", connection=connection)
    until(lambda: connection.zcard(started.key) == 1)
    leader = enqueue(connection, [{"id": "leader", "text": same, "tasks": both}])
    first = {"id": "first", "text": "[[sleep 2]] goes first " + "x" * 30, "tasks": ["sentiment"]}
    enqueue(connection, [first, {"id": "follower", "text": same, "tasks": both}])
    until(lambda: connection.zcard(started.key) == 3)
    result(connection, "running")
    time.sleep(0.5)
    worker.process.send_signal(signal.SIGTERM)
    assert worker.process.wait(timeout=WAIT_S) == 0
    assert result(connection, "follower")["status"] == "done"
    assert connection.get(result_key("leader")) is None
    assert connection.lrange("rq:queue:interactive", 0, -1) == [leader.encode()]


def test_interactive_goes_before_bulk_and_bulk_still_moves(connection: Any, start_fake_worker: Start) -> None:
    for number in range(30):
        for queue in ("bulk", "interactive"):
            text = f"[[sleep 0.05]] {queue} {number:02} " + "x" * 30
            enqueue(
                connection, [{"id": f"{queue}-{number}", "text": text, "tasks": ["sentiment"]}], queue=queue
            )
    start_fake_worker(MOODQ_BATCH_TOKENS="100")
    ends = {
        queue: [result(connection, f"{queue}-{number}")["finished_at"] for number in range(30)]
        for queue in ("bulk", "interactive")
    }
    assert sorted(ends["interactive"])[15] < sorted(ends["bulk"])[15]
    assert min(ends["bulk"]) < max(ends["interactive"])


def value(text: str, series: str) -> float:
    return float(next(line for line in text.splitlines() if line.startswith(f"{series} ")).split()[-1])


def test_the_endpoints_tell_the_workers_state(connection: Any, start_fake_worker: Start) -> None:
    port = free_port()
    worker = start_fake_worker(MOODQ_METRICS_PORT=str(port))
    enqueue(
        connection,
        [
            {"id": "m", "text": "fine", "tasks": ["sentiment", "reply"]},
            {"id": "e", "text": "", "tasks": ["sentiment"]},
        ],
    )
    result(connection, "m")

    def get(path: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    assert get("/healthz")[0] == 200
    assert get("/readyz")[0] == 200
    assert get("/nothing")[0] == 404
    until(lambda: 'code="empty_text",outcome="failed",task="none"} 1.0' in get("/metrics")[1])
    text = get("/metrics")[1]
    assert 'moodq_items_total{code="",outcome="done",task="sentiment"} 1.0' in text
    assert 'moodq_labels_total{label="positive",task="sentiment"} 1.0' in text
    for name in ("moodq_e2e_request_latency_seconds", "moodq_time_to_first_token_seconds"):
        assert f'{name}_count{{queue="interactive",task="reply"}} 1.0' in text
    assert 'moodq_label_confidence_bucket{le="0.9",task="sentiment"} 1.0' in text
    assert 'moodq_job_attempts_bucket{le="1.0",queue="interactive"} 1.0' in text
    assert 'moodq_jobs_total{outcome="taken_over",queue="bulk"} 0.0' in text
    assert "moodq_worker_ready 1.0" in text
    assert value(text, 'moodq_job_cost_seconds{queue="interactive"}') > 0
    assert value(text, 'moodq_engine_seconds_total{stage="decode"}') > 0
    assert value(text, "moodq_loop_turn_age_seconds") < 5
    assert value(text, "process_resident_memory_bytes") > 1e6
    assert 'moodq_queue_backlog_seconds{queue="interactive"} 0.0' in text
    assert 'moodq_queue_depth{queue="interactive"} 0.0' in text
    assert 'moodq_model_info{device="none",id="fake"' in text
    assert worker.process.poll() is None
