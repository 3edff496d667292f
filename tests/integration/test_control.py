"""Cancel, deadline, pause, drain and the second signal, on real worker processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rq.command import send_stop_job_command
from rq.job import Job
from rq.registry import FailedJobRegistry
from rq.serializers import JSONSerializer

from moodq_config.names import events_key, result_key
from moodq_config.settings import load_settings
from moodq_producer import AsyncClient, BadInput, Client
from moodq_worker.exit_codes import EXIT_PUT_BACK

Start = Callable[..., Any]
WAIT_S = 60.0
LONG_REPLY = "[[words 500]] [[step 0.1]] and so on"


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(load_settings(redis_url=redis_url)) as client:
        yield client


def until(condition: Callable[[], object], timeout_s: float = WAIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the awaited state did not come"
        time.sleep(0.02)


def code(client: Client, id: str) -> str:
    error = next(client.wait([id], WAIT_S)).error
    return error.code if error else "done"


def moodq(redis_url: str, home: Path, *args: str) -> tuple[int, str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
    done = subprocess.run(
        [sys.executable, "-c", "from moodq_config.cli import main; main()", *args],
        capture_output=True,
        cwd=home,
        env={**clean, "MOODQ_REDIS_URL": redis_url, "COLUMNS": "200", "PYTHONUTF8": "1"},
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def idle(connection: Any) -> bool:
    return not connection.zcard("rq:wip:interactive") and not connection.zcard("rq:wip:bulk")


def test_a_waiting_item_is_cancelled_at_once_and_never_run(
    connection: Any, client: Client, start_fake_worker: Start
) -> None:
    tickets = list(client.submit_many([{"id": f"i{n}", "text": f"text {n}"} for n in range(3)]))
    assert tickets[1].cancel()
    assert tickets[1].cancel(), "it is cancelled, whoever asks"
    assert code(client, "i1") == "cancelled"
    start_fake_worker()
    assert [code(client, id) for id in ("i0", "i2")] == ["done", "done"]
    until(lambda: idle(connection))
    assert code(client, "i1") == "cancelled"
    assert not client.cancel("i0"), "it has ended otherwise"
    assert not connection.zcard(FailedJobRegistry("bulk", connection=connection).key)
    [job] = connection.zrange("rq:finished:bulk", 0, -1)
    told = Job.fetch(job.decode(), connection, serializer=JSONSerializer).return_value()
    assert told == {"done": 2, "failed": 1, "codes": {"cancelled": 1}}


def test_an_id_cancelled_before_it_is_sent_is_not_run(client: Client) -> None:
    assert client.cancel("early")
    client.submit("too late", id="early")
    assert code(client, "early") == "cancelled"
    with pytest.raises(BadInput, match="id"):
        client.cancel("not an id")


def test_a_running_reply_stops_within_a_decode_step_and_leaves_the_others_alone(
    connection: Any, client: Client, start_fake_worker: Start
) -> None:
    start_fake_worker()
    client.submit(LONG_REPLY, ["reply"], id="gone")
    client.submit("[[words 30]] stays", ["reply"], id="stays")
    until(lambda: connection.xlen(events_key("gone")) > 3)
    assert client.cancel("gone")
    said = connection.xlen(events_key("gone"))
    until(lambda: not connection.exists("rq:executions:gone"), timeout_s=5)
    assert connection.xlen(events_key("gone")) <= said + 2, "at most the step under way"
    assert code(client, "stays") == "done"
    assert code(client, "gone") == "cancelled"


async def test_the_async_client_cancels_too(redis_url: str) -> None:
    async with AsyncClient(load_settings(redis_url=redis_url)) as client:
        ticket = await client.submit("waits for nobody")
        assert await ticket.cancel()
        found = await ticket.wait(5)
        assert found.error is not None
        assert found.error.code == "cancelled"


def test_stop_job_of_rq_cancels_the_items_of_a_job_in_hand(
    connection: Any, client: Client, start_fake_worker: Start
) -> None:
    start_fake_worker()
    client.submit(LONG_REPLY, ["reply"], id="stop-me")
    until(lambda: connection.xlen(events_key("stop-me")) > 3)
    send_stop_job_command(connection, "stop-me", serializer=JSONSerializer)
    assert code(client, "stop-me") == "cancelled"


def test_an_item_past_its_deadline_is_not_started(
    connection: Any, client: Client, start_fake_worker: Start
) -> None:
    client.submit("late", id="at-claim", deadline=0.05)
    client.submit("in time", id="in-time", deadline=datetime.now(UTC) + timedelta(hours=1))
    time.sleep(0.1)
    start_fake_worker(MOODQ_BATCH_TOKENS="64")
    assert code(client, "at-claim") == "deadline_exceeded"
    assert code(client, "in-time") == "done"
    client.submit("[[sleep 2]] holds the engine", id="holds")
    until(lambda: connection.zcard("rq:wip:interactive"))
    time.sleep(0.2)
    client.submit("l" * 60, id="before-its-pass", deadline=1.0)
    client.submit("r" * 60, ["reply"], id="before-its-reply", deadline=1.0)
    assert code(client, "before-its-pass") == "deadline_exceeded"
    assert code(client, "before-its-reply") == "deadline_exceeded"
    assert code(client, "holds") == "done"


def test_a_reply_waiting_behind_others_is_not_admitted_past_its_deadline(
    connection: Any, client: Client, start_fake_worker: Start
) -> None:
    start_fake_worker(MOODQ_MAX_REPLIES="1")
    client.submit("[[words 20]] [[step 0.1]] first", ["reply"], id="first")
    until(lambda: connection.xlen(events_key("first")) > 1)
    client.submit("second", ["reply"], id="second", deadline=0.5)
    assert code(client, "second") == "deadline_exceeded"
    assert code(client, "first") == "done"


def test_a_deadline_that_is_no_moment_is_refused(client: Client) -> None:
    with pytest.raises(BadInput, match="time zone"):
        client.submit("x", deadline=datetime(2030, 1, 1))
    for wrong in ("tomorrow", "2030-01-01T00:00:00", "9999-99-99T00:00:00Z"):
        with pytest.raises(BadInput, match="deadline"):
            list(client.submit_many([{"text": "x", "deadline": wrong}]))


def test_a_second_signal_puts_back_what_runs_at_once(
    connection: Any, client: Client, start_fake_worker: Start
) -> None:
    worker = start_fake_worker()
    client.submit("[[sleep 16]] long", id="long")
    until(lambda: connection.zcard("rq:wip:interactive"))
    client.submit(LONG_REPLY, ["reply"], id="reply")
    until(lambda: connection.zcard("rq:wip:interactive") == 2)
    time.sleep(0.3)
    worker.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert worker.process.poll() is None, "the first one drains"
    began = time.monotonic()
    worker.process.send_signal(signal.SIGINT)
    worker.killed = True
    assert worker.process.wait(WAIT_S) == EXIT_PUT_BACK
    assert time.monotonic() - began < 10
    assert idle(connection)
    assert connection.lrange("rq:queue:interactive", 0, -1) == [b"long", b"reply"]
    assert connection.hget("rq:job:long", "moodq_attempts") == b"0"
    assert not connection.exists(result_key("long"))


def test_a_second_signal_ends_a_worker_whose_pass_does_not_come_back(
    connection: Any, client: Client, start_fake_worker: Start
) -> None:
    worker = start_fake_worker()
    client.submit("[[sleep 400]] no layer ends for 50 s", id="stuck")
    until(lambda: connection.zcard("rq:wip:interactive"))
    time.sleep(0.3)
    for _ in range(2):
        worker.process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
    worker.killed = True
    assert worker.process.wait(20) == EXIT_PUT_BACK
    assert connection.lrange("rq:queue:interactive", 0, -1) == [b"stuck"]


def test_pause_and_resume_are_rqs_and_stats_shows_them(
    redis_url: str, tmp_path: Path, client: Client, start_fake_worker: Start
) -> None:
    worker = start_fake_worker()
    assert moodq(redis_url, tmp_path, "pause", "--for", "600")[:2] == (0, "paused for 600 s\n")

    def states() -> Any:
        return json.loads(moodq(redis_url, tmp_path, "stats", "--json")[1])

    until(lambda: states()["states"] == {worker.name: "suspended"})
    assert states()["paused"] is True
    assert "paused: nothing is claimed" in moodq(redis_url, tmp_path, "stats")[1]
    ticket = client.submit("waits")
    time.sleep(1.5)
    assert ticket.result() is None
    assert moodq(redis_url, tmp_path, "resume")[:2] == (0, "resumed\n")
    assert ticket.wait(WAIT_S).status == "done"
    assert states()["paused"] is False
    assert moodq(redis_url, tmp_path, "resume")[:2] == (0, "was not paused\n")


def test_drain_ends_the_workers_of_a_queue_and_no_others(
    redis_url: str, tmp_path: Path, client: Client, start_fake_worker: Start
) -> None:
    one = start_fake_worker(MOODQ_QUEUES="interactive")
    other = start_fake_worker(MOODQ_QUEUES="bulk")
    ticket = client.submit("[[sleep 3]] in hand")
    until(lambda: client._redis.zcard("rq:wip:interactive"))
    time.sleep(0.3)
    status, output, _ = moodq(redis_url, tmp_path, "drain", "--queue", "interactive")
    assert (status, output) == (0, f"draining: {one.name}\n")
    until(
        lambda: (
            json.loads(moodq(redis_url, tmp_path, "stats", "--json")[1])["states"].get(one.name)
            in ("draining", None)
        )
    )
    assert one.process.wait(WAIT_S) == 0
    assert ticket.wait(1).status == "done"
    assert other.process.poll() is None
    status, _, errors = moodq(redis_url, tmp_path, "drain", "--worker", "nobody")
    assert status == 4
    assert "no living worker" in errors
    assert moodq(redis_url, tmp_path, "drain", "--wait", "30")[0] == 0
    assert other.process.wait(WAIT_S) == 0


def test_cancel_from_the_command_line_tells_what_it_did(
    redis_url: str, tmp_path: Path, client: Client, start_fake_worker: Start
) -> None:
    client.submit("waits", id="a")
    assert moodq(redis_url, tmp_path, "cancel", "a")[:2] == (0, "a: cancelled\n")
    start_fake_worker()
    client.submit("runs", id="b")
    assert code(client, "b") == "done"
    status, output, _ = moodq(redis_url, tmp_path, "cancel", "a", "b", "--json")
    assert status == 3
    assert [json.loads(line)["cancelled"] for line in output.splitlines()] == [True, False]
    assert moodq(redis_url, tmp_path, "cancel", "no id")[0] == 3
    status, output, _ = moodq(
        redis_url, tmp_path, "send", "never", "--deadline", "0.000001", "--json", "--timeout", "30"
    )
    assert (status, json.loads(output)["error"]["code"]) == (3, "deadline_exceeded")
