"""``moodq worker --processes``: real processes with the fake engine, killed, drained and failing to start."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from redis import Redis

from moodq_config.settings import load_settings
from moodq_producer import Client
from moodq_worker.cores import usable_cores
from moodq_worker.exit_codes import EXIT_PUT_BACK

WAIT_S = 60.0
LONG_REPLY = "[[words 500]] [[step 0.1]] and so on"

pytestmark = pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")


@dataclass
class Parent:
    process: subprocess.Popen[bytes]
    log: Path

    def lines(self, pattern: str) -> list[re.Match[str]]:
        return [found for line in self.log.read_text().splitlines() if (found := re.search(pattern, line))]

    def pids(self) -> dict[int, int]:
        """The last process of each worker."""
        return {int(found[1]): int(found[2]) for found in self.lines(r"worker (\d): started, pid (\d+)")}

    def until(self, pattern: str, times: int = 1) -> None:
        deadline = time.monotonic() + WAIT_S
        while len(self.lines(pattern)) < times:
            assert time.monotonic() < deadline, f"{pattern!r} did not come:\n{self.log.read_text()}"
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)


Start = Callable[..., Parent]


@pytest.fixture
def start(redis_url: str, tmp_path: Path) -> Iterator[Start]:
    """Starts a parent of two; whatever is left of it after the test is killed."""
    started: list[Parent] = []

    def start(wait: bool = True, **settings: str) -> Parent:
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MOODQ_")}
        env = {
            **inherited,
            "MOODQ_ENGINE": "fake",
            "MOODQ_REDIS_URL": redis_url,
            "MOODQ_METRICS_PORT": "0",
            "MOODQ_LEASE_S": "2",
            "MOODQ_LOG_FORMAT": "text",
            "MOODQ_DATA_DIR": str(tmp_path / "data"),
            **settings,
        }
        log = tmp_path / f"parent-{len(started)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "moodq_config.cli", "worker", "--processes", "2"],
                env=env, cwd=tmp_path, stdout=output, stderr=output,
            )  # fmt: skip
        started.append(parent := Parent(process, log))
        if wait:
            parent.until("all 2 workers are ready")
        return parent

    yield start
    for parent in started:
        if parent.process.poll() is None:
            parent.process.kill()
            parent.process.wait()
        deadline = time.monotonic() + WAIT_S
        while any(Path(f"/proc/{pid}").exists() for pid in parent.pids().values()):
            assert time.monotonic() < deadline, f"a child outlived its parent:\n{parent.log.read_text()}"
            time.sleep(0.02)


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(load_settings(redis_url=redis_url)) as client:
        yield client


def test_a_killed_child_is_started_again_and_nothing_it_had_in_hand_is_lost(
    start: Start, client: Client
) -> None:
    parent = start()
    ids = [f"text-{number}" for number in range(300)]
    for id in ids:
        client.submit("[[sleep 0.02]] a parcel", id=id, queue="bulk")
    first = parent.pids()[1]
    while not client.result(ids[20]):
        time.sleep(0.01)
    os.kill(first, signal.SIGKILL)
    parent.until(r"worker 1: ended with exit code 137; starting another in 0\.5 s")
    parent.until("worker 1: ready", times=2)
    assert parent.pids()[1] != first
    assert {found.id for found in client.wait(ids, WAIT_S) if found.error is None} == set(ids)
    parent.process.terminate()
    assert parent.process.wait(WAIT_S) == 0


def test_sigterm_drains_every_child_and_ends_with_0(start: Start, client: Client, connection: Redis) -> None:
    parent = start()
    ids = [f"text-{number}" for number in range(40)]
    for id in ids:
        client.submit("[[sleep 0.1]] a parcel", id=id, queue="bulk")
    while not connection.zcard("rq:wip:bulk"):
        time.sleep(0.01)
    parent.process.terminate()
    assert parent.process.wait(WAIT_S) == 0
    assert len(parent.lines("moodq_worker.wiring: drained")) == 2
    assert connection.zcard("rq:wip:bulk") == connection.zcard("rq:wip:interactive") == 0
    done = sum(client.result(id) is not None for id in ids)
    assert done > 0
    assert done + connection.llen("rq:queue:bulk") == len(ids)
    assert not connection.smembers("rq:workers")


def test_a_second_sigterm_puts_back_what_runs_at_once_and_ends_with_75(
    start: Start, client: Client, connection: Redis
) -> None:
    parent = start(MOODQ_DRAIN_TIMEOUT_S="60")
    for id in ("one", "two"):
        client.submit(LONG_REPLY, id=id, tasks=["reply"])
    while connection.zcard("rq:wip:interactive") < 2:
        time.sleep(0.01)
    parent.process.terminate()
    parent.until("got SIGTERM", times=2)  # two signals that wait together would be one
    parent.process.terminate()
    began = time.monotonic()
    assert parent.process.wait(WAIT_S) == EXIT_PUT_BACK
    assert time.monotonic() - began < 15
    assert connection.zcard("rq:wip:interactive") == 0
    assert connection.llen("rq:queue:interactive") == 2


def test_each_child_has_cores_a_name_and_a_port_of_its_own(start: Start, connection: Redis) -> None:
    port = _two_free_ports()
    parent = start(MOODQ_METRICS_PORT=str(port), MOODQ_WORKER_NAME="pair")
    pids = parent.pids()
    groups = [os.sched_getaffinity(pids[index]) for index in (0, 1)]
    assert not groups[0] & groups[1]
    assert groups[0] | groups[1] == os.sched_getaffinity(0)
    assert connection.smembers("rq:workers") == {b"rq:worker:pair-0", b"rq:worker:pair-1"}
    for number in (port, port + 1):
        with closing(urllib.request.urlopen(f"http://127.0.0.1:{number}/readyz", timeout=5)) as answer:
            assert answer.status == 200
    parent.process.terminate()
    assert parent.process.wait(WAIT_S) == 0


def test_what_is_wrong_from_the_start_is_said_once_and_ends_the_parent_with_the_childs_code(
    start: Start,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        parent = start(wait=False, MOODQ_METRICS_PORT=str(taken.getsockname()[1]))
        assert parent.process.wait(WAIT_S) == 4
    assert len(parent.lines("port_taken")) == 1
    assert list(parent.pids()) == [0]


def test_a_child_that_fails_at_its_start_again_and_again_ends_all_with_its_code(
    start: Start, start_fake_worker: Callable[..., object]
) -> None:
    start_fake_worker(MOODQ_WORKER_NAME="pair-1")
    parent = start(wait=False, MOODQ_WORKER_NAME="pair")
    assert parent.process.wait(WAIT_S) == 2
    assert len(parent.lines("config_invalid")) == 3
    assert parent.lines("worker 1 ended with exit code 2 before it was ready")
    assert len(parent.lines("moodq_worker.wiring: drained")) == 1


def test_a_child_told_to_drain_alone_is_not_started_again(start: Start) -> None:
    parent = start()
    os.kill(parent.pids()[0], signal.SIGTERM)
    parent.until("worker 0: ended as it was asked to")
    os.kill(parent.pids()[1], signal.SIGTERM)
    assert parent.process.wait(WAIT_S) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of a parent's death on Linux only")
def test_children_drain_when_their_parent_is_killed(start: Start) -> None:
    parent = start()
    parent.process.kill()
    parent.process.wait()
    deadline = time.monotonic() + WAIT_S
    while len(parent.lines("moodq_worker.wiring: drained")) < 2:
        assert time.monotonic() < deadline, parent.log.read_text()
        time.sleep(0.02)


def test_readiness_is_told_when_all_are_ready_in_systemds_words(start: Start, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.settimeout(WAIT_S)
        listener.bind(str(tmp_path / "systemd"))
        parent = start(NOTIFY_SOCKET=str(tmp_path / "systemd"))
        assert listener.recv(4_096) == f"READY=1\nMAINPID={parent.process.pid}".encode()
        parent.process.terminate()
        assert listener.recv(4_096).startswith(b"STOPPING=1\n")
    assert parent.process.wait(WAIT_S) == 0


def _two_free_ports() -> int:
    """A port that was free a moment ago, as was the next one."""
    while True:
        with socket.socket() as one, socket.socket() as next:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                next.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port
