"""``moodq exporter`` over real servers: plain RQ queues, moodq's workers, a Redis that goes and comes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from rq import Queue, SimpleWorker
from rq.job import Job

from moodq_config.names import worker_info_key
from moodq_config.settings import load_settings
from moodq_producer.exporter.reading import MOST_QUEUES
from moodq_producer.exporter.targets import target_groups
from moodq_producer.workers import read_workers
from moodq_worker.announcing import metrics_address

WAIT_S = 20.0
Push = Callable[..., Job]
Start = Callable[..., Any]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(url: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MOODQ_")}
    return {**kept, "MOODQ_REDIS_URL": url}


def once(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "moodq_config.cli", "exporter", "--once", *options]
    return subprocess.run(command, env=environment(url), capture_output=True, text=True, timeout=60)


def read(text: str) -> dict[tuple[str, ...], float]:
    """By name and label values."""
    return {
        (one.name, *one.labels.values()): one.value
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


@contextmanager
def exporter(url: str, folder: Path, *options: str) -> Iterator[str]:
    """A running exporter; its base URL."""
    port = free_port()
    with (folder / "exporter.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "moodq_config.cli", "exporter", "--port", str(port), *options],
            env=environment(url),
            stderr=log,
        )
    base = f"http://127.0.0.1:{port}"
    try:
        until(lambda: get(f"{base}/healthz")[0] == 200)
        yield base
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0, (folder / "exporter.log").read_text()
    finally:
        process.kill()
        process.wait()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except urllib.error.URLError:
        return 0, ""


def until(condition: Callable[[], bool]) -> None:
    limit = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < limit, "the awaited state did not come"
        time.sleep(0.05)


def test_queues_of_plain_rq_are_told_of_without_a_worker_of_ours(redis_url: str, connection: Any) -> None:
    queue = Queue("reports", connection=connection)  # pickled jobs of another application
    for name in ("a", "b", "c"):
        queue.enqueue(os.path.basename, name, job_id=name)
    queue.enqueue(os.path.basename, 7, job_id="d", at_front=True)  # raises
    SimpleWorker([queue], connection=connection).work(burst=True, max_jobs=2)
    done = once(redis_url)
    assert (done.returncode, done.stderr) == (0, "")
    found = read(done.stdout)
    assert found["moodq_queue_depth", "reports"] == 2
    assert 0 < found["moodq_queue_oldest_age_seconds", "reports"] < 60
    statuses = {key[2]: value for key, value in found.items() if key[:2] == ("moodq_queue_jobs", "reports")}
    assert statuses == {
        "queued": 2,
        "finished": 1,
        "failed": 1,
        "started": 0,
        "scheduled": 0,
        "deferred": 0,
        "canceled": 0,
    }
    assert found["moodq_workers", "idle"] == 0
    assert ("moodq_queue_backlog_seconds", "reports") not in found, "nobody knows what its jobs cost"


def test_what_waits_is_told_in_seconds_of_a_worker_s_time_and_once_for_all_workers(
    redis_url: str, connection: Any, start_fake_worker: Start, push: Push
) -> None:
    for name in ("one", "two"):
        start_fake_worker(MOODQ_WORKER_NAME=name, MOODQ_QUEUES="interactive")
    for number in range(8):
        push(f"job-{number}", data=slow_job(f"job-{number}", 0.2))
    until(lambda: connection.zcard("rq:finished:interactive") == 8)
    infos: dict[str, Any] = {}

    def told() -> bool:
        infos.update(read_workers(connection, ["one", "two"]))
        done: int = sum(one.items["sentiment"].done for one in infos.values() if "sentiment" in one.items)
        return done == 8

    until(told)
    connection.set("rq:suspended", 1)
    time.sleep(1.2)
    for number in range(5):
        push(f"more-{number}")
    found = read(once(redis_url).stdout)
    cost = found["moodq_job_cost_seconds", "interactive"]
    assert 0.01 < cost < 2
    assert found["moodq_queue_backlog_seconds", "interactive"] == pytest.approx(5 * cost)
    assert found["moodq_queue_workers", "interactive"] == 2
    assert found["moodq_paused",] == 1
    connection.delete("rq:suspended")


def slow_job(id: str, seconds: float) -> bytes:
    item = {"id": id, "text": f"[[sleep {seconds}]] {id}", "tasks": ["sentiment"]}
    return json.dumps(["moodq.run", None, [{"v": 1, "items": [item]}], {}]).encode()


def test_jobs_that_nobody_takes_over_are_told_of(redis_url: str, connection: Any) -> None:
    registry = Queue("interactive", connection=connection).started_job_registry.key
    # RQ's score of a started job: when it counts as abandoned.
    connection.zadd(registry, {"running:1": time.time() + 60, "lost:2": time.time() - 1})
    found = read(once(redis_url).stdout)
    assert found["moodq_queue_abandoned_jobs", "interactive"] == 1
    assert found["moodq_queue_jobs", "interactive", "started"] == 2
    assert found["moodq_queue_abandoned_jobs", "bulk"] == 0


def test_prometheus_finds_every_worker_and_forgets_it_when_it_has_ended(
    redis_url: str, tmp_path: Path, fake_worker: Any
) -> None:
    file = tmp_path / "workers.json"
    with exporter(redis_url, tmp_path, "--targets", str(file)) as base:
        until(lambda: json.loads(get(f"{base}/targets")[1]) != [])
        [group] = json.loads(get(f"{base}/targets")[1])
        assert group["labels"]["__meta_moodq_worker"] == fake_worker.name
        [address] = group["targets"]
        assert "moodq_worker_ready 1.0" in get(f"http://{address}/metrics")[1]
        until(lambda: bool(json.loads(file.read_text())))
        assert json.loads(file.read_text()) == [group]
        assert fake_worker.stop() == 0
        assert json.loads(get(f"{base}/targets")[1]) == []
        assert read(get(f"{base}/metrics")[1])["moodq_workers", "idle"] == 0
        assert get(f"{base}/anything")[0] == 404


def test_while_redis_is_away_the_exporter_says_so_and_forgets_no_worker(
    server_program: Callable[[str], str], tmp_path: Path
) -> None:
    port, file = free_port(), tmp_path / "workers.json"
    file.write_text('[{"targets": ["10.0.0.1:9464"]}]')
    url = f"redis://127.0.0.1:{port}/0"
    with exporter(url, tmp_path, "--targets", str(file)) as base:
        assert read(get(f"{base}/metrics")[1]) == {("moodq_redis_up",): 0}
        status, text = get(f"{base}/targets")
        assert (status, "redis_unreachable" in text) == (503, True)
        assert "10.0.0.1" in file.read_text()
        server = subprocess.Popen(
            [server_program("valkey"), "--port", str(port), "--save", "", "--dir", str(tmp_path)],
            stdout=subprocess.DEVNULL,
        )
        try:
            until(lambda: read(get(f"{base}/metrics")[1])[("moodq_redis_up",)] == 1)
            assert get(f"{base}/targets") == (200, "[]")
        finally:
            server.terminate()
            server.wait()
        assert read(get(f"{base}/metrics")[1]) == {("moodq_redis_up",): 0}
    assert once(url).returncode == 4


def test_queues_that_anybody_made_up_do_not_fill_prometheus(redis_url: str, connection: Any) -> None:
    connection.sadd("rq:queues", *(f"rq:queue:{number}" for number in range(MOST_QUEUES + 50)))
    found = read(once(redis_url).stdout)
    assert sum(key[0] == "moodq_queue_depth" for key in found) == MOST_QUEUES
    assert found["moodq_exporter_queues_left_out",] == 52
    assert found["moodq_queue_depth", "interactive"] == 0, "our own are not among those left out"
    chosen = read(once(redis_url, "--queue", "7").stdout)
    assert [key[1] for key in chosen if key[0] == "moodq_queue_depth"] == ["7"]


@pytest.mark.parametrize(
    "entry",
    [
        b"\xff\x00",
        b"[]",
        b'{"v": 1, "at": 1, "started_at": 1, "metrics": "evil.example/x?:80"}',
        b'{"v": 1, "at": 1, "started_at": 1, "job_cost_s": {"interactive": NaN}}',
        b'{"v": 1, "at": 1, "started_at": 1, "pad": "' + b"x" * 70_000 + b'"}',
    ],
    ids=["no text", "no object", "no address", "no number", "too long"],
)
def test_what_no_worker_wrote_is_passed_over(connection: Any, entry: bytes) -> None:
    connection.set(worker_info_key("w"), entry)
    assert read_workers(connection, ["w", "nobody"]) == {}


def test_a_worker_without_an_address_is_no_target(connection: Any) -> None:
    connection.set(worker_info_key("w"), b'{"v": 1, "at": 1, "started_at": 1, "later": true}')
    assert target_groups(read_workers(connection, ["w"])) == []


def test_a_wrong_option_ends_with_its_own_exit_code(redis_url: str, tmp_path: Path) -> None:
    done = once(redis_url, "--targets", str(tmp_path / "none" / "workers.json"))
    assert (done.returncode, "--targets" in done.stderr) == (2, True)
    with exporter(redis_url, tmp_path) as base:
        port = base.rpartition(":")[2]
        taken = subprocess.run(
            [sys.executable, "-m", "moodq_config.cli", "exporter", "--port", port],
            env=environment(redis_url),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (taken.returncode, "port_taken" in taken.stderr) == (4, True)


@pytest.mark.parametrize(
    ("host", "chosen", "seen", "address"),
    [
        ("127.0.0.1", None, "10.1.2.3:4444", "127.0.0.1:9464"),
        ("0.0.0.0", None, "10.1.2.3:4444", "10.1.2.3:9464"),
        ("::", None, "[fd00::7]:4444", "[fd00::7]:9464"),
        ("::1", None, "10.1.2.3:4444", "[::1]:9464"),
        ("0.0.0.0", "pod-7.workers", "10.1.2.3:4444", "pod-7.workers:9464"),
        ("0.0.0.0", "gate.example:19464", "10.1.2.3:4444", "gate.example:19464"),
        ("0.0.0.0", "[fd00::7]", "unknown", "[fd00::7]:9464"),
    ],
)
def test_the_address_told_is_one_that_others_can_reach(
    host: str, chosen: str | None, seen: str, address: str
) -> None:
    load_settings(metrics_address=chosen)
    assert metrics_address(host, 9464, chosen=chosen, seen_by_redis=seen) == address
