"""Everything in Redis by which RQ could be made to run code or send requests, against a real worker process.

Each bait is tried on RQ's own worker first: bait that nobody would take proves nothing.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
import time
import zlib
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

StartFakeWorker = Callable[..., Any]
GOOD_ITEM = {"text": "a fine day", "tasks": ["sentiment"]}


class Bait:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.system, (f"touch {self._path}",)


@pytest.fixture
def taken(tmp_path: Path) -> Path:
    """The file that exists once any bait was taken. ``bait.run`` can be imported where workers start."""
    path = tmp_path / "taken"
    (tmp_path / "bait.py").write_text(
        f"open({str(path)!r}, 'a').write('imported')\n"
        f"def run(*args, **kwargs):\n    open({str(path)!r}, 'a').write('called')\n",
        "utf-8",
    )
    return path


@pytest.fixture
def webhooks() -> Iterator[tuple[str, list[str]]]:
    """The address of an HTTP server, and the paths it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/hook", asked
    server.shutdown()
    server.server_close()


def payload(function: str = "moodq.run", id: str = "x") -> bytes:
    return json.dumps([function, None, [{"v": 1, "items": [{"id": id, **GOOD_ITEM}]}], {}]).encode()


def hostile_hashes(taken: Path, hook: str) -> dict[str, dict[str, bytes | str]]:
    """Fields of a job's hash by the name of what they try."""
    poison = pickle.dumps(Bait(taken))
    job = pickle.dumps(("bait.run", None, (Bait(taken),), {}))
    common = {"url": hook, "method": "POST", "timeout": 5}
    hooks = json.dumps([{**common, "job_status": one} for one in ("finished", "failed")])
    found: dict[str, dict[str, bytes | str]] = {
        "pickled": {"data": job},
        "pickled-zlib": {"data": zlib.compress(job)},
        "pickled-protocol-0": {"data": pickle.dumps(("bait.run", None, (), {}), protocol=0)},
        "pickled-meta": {"data": payload(id="pickled-meta"), "meta": poison},
        "pickled-result": {"data": payload(id="pickled-result"), "result": poison},
        "pickled-error": {"data": payload(id="pickled-error"), "exc_info": zlib.compress(poison)},
        "function-os": {"data": json.dumps(["os.system", None, [f"touch {taken}"], {}])},
        "function-eval": {"data": json.dumps(["builtins.eval", None, [f"open({str(taken)!r},'a')"], {}])},
        "function-import": {"data": payload("bait.run", "function-import")},
        "function-deep": {"data": payload("moodq.run.__globals__.os.system", "function-deep")},
        "instance": {"data": json.dumps(["run", "bait", [], {}])},
        "kwargs": {"data": json.dumps(["moodq.run", None, [{"v": 1, "items": []}], {"f": "bait.run"}])},
        "webhook": {"data": payload(id="webhook"), "webhooks": hooks},
        "webhook-failed": {"data": payload("os.system"), "webhooks": hooks},
        "dependency": {"data": payload(id="dependency"), "dependency_ids": '["pickled"]'},
        "repeat": {"data": payload("bait.run"), "repeats_left": "3", "repeat_intervals": "[0]"},
        "retry": {"data": payload("bait.run"), "retries_left": "2", "retry_intervals": "[0]"},
        "group": {"data": payload(id="group"), "group_id": "bait.run"},
        "serializer": {"data": payload("bait.run"), "serializer": "pickle", "serializer_class": "pickle"},
        "worker-class": {"data": payload("bait.run"), "worker_class": "bait.run", "job_class": "bait.run"},
    }
    for kind in ("success", "failure", "stopped"):
        found[f"callback-{kind}"] = {
            "data": payload(id=f"callback-{kind}"), f"{kind}_callback_name": "bait.run",
            f"{kind}_callback_timeout": "60",
        }  # fmt: skip
        found[f"callback-{kind}-failing"] = {
            "data": payload("os.system"), f"{kind}_callback_name": "bait.run"
        }  # fmt: skip
    return found


def push(connection: Any, id: str, fields: dict[str, bytes | str]) -> None:
    common = {"origin": "interactive", "status": "queued", "created_at": "2026-01-02T03:04:05.678901Z"}
    connection.hset(f"rq:job:{id}", mapping={**common, **fields})
    connection.rpush("rq:queue:interactive", id)


def test_nothing_that_a_job_names_is_run_imported_unpickled_or_called(
    start_fake_worker: StartFakeWorker, connection: Any, taken: Path, webhooks: tuple[str, list[str]]
) -> None:
    hook, asked = webhooks
    hostile = hostile_hashes(taken, hook)
    worker = start_fake_worker(MOODQ_MAX_ATTEMPTS="2", MOODQ_LEASE_S="2")
    for id, fields in hostile.items():
        push(connection, id, fields)
    # What else RQ reads: dependents, pickled results of an earlier run, abandoned executions, commands.
    connection.sadd("rq:job:pickled-meta:dependents", "pickled", "callback-success")
    connection.xadd(
        "rq:results:pickled-meta", {"type": 1, "return_value": b64encode(pickle.dumps(Bait(taken)))}
    )
    connection.hset("rq:job:abandoned", mapping={**hostile["callback-failure"], "status": "started"})
    connection.zadd("rq:wip:interactive", {"abandoned:0123456789abcdef": 1})
    for command in (pickle.dumps(Bait(taken)), b'{"command": "bait.run"}', b'{"command": {"a": 1}}', b"[]"):
        connection.publish(f"rq:pubsub:{worker.name}", command)
    push(connection, "good", {"data": payload(id="good")})
    deadline = time.monotonic() + 30
    while connection.llen("rq:queue:interactive") or not connection.exists("moodq:result:good"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(2.5)  # a round of the heartbeat, which takes over and cleans up
    assert json.loads(connection.get("moodq:result:good"))["status"] == "done"
    assert not taken.exists()
    assert asked == []
    refused = {
        key.decode().removeprefix("moodq:result:"): json.loads(connection.get(key))
        .get("error", {})
        .get("code")
        for key in connection.keys("moodq:result:*")
    }
    assert refused["function-os"] == "unknown_function"
    assert refused["pickled"] == "broken_json"
    assert refused["callback-success"] == "unknown_function"
    assert refused["pickled-error"] is None  # a field that is not read is no reason to refuse
    assert worker.stop() == 0
    assert "Traceback" not in worker.log.read_text()


@pytest.mark.parametrize("id", ["pickled", "function-import", "callback-success", "webhook"])
def test_the_bait_is_taken_by_rqs_own_worker(
    id: str, connection: Any, redis_url: str, taken: Path, webhooks: tuple[str, list[str]], tmp_path: Path
) -> None:
    hook, asked = webhooks
    fields = hostile_hashes(taken, hook)[id]
    if id in ("callback-success", "webhook"):
        fields["data"] = json.dumps(["os.getpid", None, [], {}])
    push(connection, id, fields)
    serializer = "rq.serializers.DefaultSerializer" if id == "pickled" else "rq.serializers.JSONSerializer"
    command = ["-m", "rq.cli", "worker", "interactive", "--burst", "--url", redis_url, "-S", serializer]
    done = subprocess.run(
        [sys.executable, *command, "-w", "rq.worker.SimpleWorker"],
        cwd=tmp_path, capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert taken.exists() or asked, done.stderr.decode()


def test_what_is_stored_for_a_text_cannot_leave_the_labels_or_stop_the_worker(
    start_fake_worker: StartFakeWorker, connection: Any
) -> None:
    """Whoever may write the cache or a result can write anything there."""
    worker = start_fake_worker()
    push(connection, "first", {"data": payload(id="first")})
    wait_for(connection, "moodq:result:first")
    wait_until(lambda: connection.hlen("moodq:cache:young"))
    [field] = connection.hkeys("moodq:cache:young")
    lies: list[Any] = [
        {"label": "owned", "probability": 1.0, "scores": {"owned": 1.0}},
        {"label": "owned", "probability": 1.0, "scores": {"positive": 0.5, "negative": 0.5}},
        {"label": "positive", "probability": 1.0, "scores": {"positive": 1.0}},
        {"label": "positive", "probability": 7.0, "scores": {"positive": 7.0, "negative": -6.0}},
        {"text": "owned", "finish_reason": "stop", "tokens": 1},
        "owned",
        None,
    ]
    stored = [json.dumps(lie).encode() for lie in lies] + [b"[" * 200_000, b"\xff\xfe", pickle.dumps(lies)]
    for number, value in enumerate(stored):
        connection.hset("moodq:cache:young", field, value)
        connection.set(f"moodq:result:again-{number}", value)
        push(connection, f"again-{number}", {"data": payload(id=f"again-{number}")})
        wait_until(
            lambda: not connection.llen("rq:queue:interactive") and not connection.zcard("rq:wip:interactive")
        )
        result = json.loads(connection.get(f"moodq:result:again-{number}"))
        assert result["status"] == "done"
        assert set(result["results"]["sentiment"]["scores"]) == {"positive", "negative"}
        assert result["results"]["sentiment"]["label"] == "positive"
        assert "cached" not in result
    assert worker.process.poll() is None


def wait_for(connection: Redis, key: str) -> None:
    wait_until(lambda: connection.exists(key))


def wait_until(holds: Callable[[], Any], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
