"""Back-pressure as a whole: a flood of bulk harms neither who waits on interactive nor Redis."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from redis import Redis

from moodq_config.errors import QueueFull
from moodq_config.settings import Settings, load_settings
from moodq_producer import Client

StartFakeWorker = Callable[..., Any]

LONG_S = 120.0
FLOOD_ITEMS = 4_000  # of each producer; some 6.5 KB of Redis each once done
CHUNK = 100
LIMITS = {"MOODQ_MAX_REDIS_MB": "36", "MOODQ_MAX_QUEUE_LENGTH": "15", "MOODQ_RESULT_TTL_S": "10"}
METADATA = {"row": "x" * 400}


def free_port() -> int:
    """A loopback port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def printed_bound(monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes, as ``moodq config`` prints them."""
    for name, value in LIMITS.items():
        monkeypatch.setenv(name, value)
    command = [sys.executable, "-m", "moodq_config.cli", "config", "--json"]
    shown = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return int(shown["redis_memory"]["bound"])


@contextmanager
def peak_memory(url: str) -> Iterator[list[int]]:
    """The most that Redis used while in the block."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        with Redis.from_url(url) as connection:
            while not ended.wait(0.02):
                peak[0] = max(peak[0], int(connection.info("memory")["used_memory"]))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        ended.set()
        thread.join()


def flood(settings: Settings, name: str) -> int:
    """Push bulk as fast as it is let in; returns how often there was no room."""
    full = 0
    with Client(settings) as client:
        for start in range(0, FLOOD_ITEMS, CHUNK):
            items = [
                {"id": f"{name}-{number}", "text": f"text {number}", "metadata": METADATA}
                for number in range(start, start + CHUNK)
            ]
            try:
                list(client.submit_many(items, chunk=CHUNK))
            except QueueFull:
                full += 1
                list(client.submit_many(items, chunk=CHUNK, on_full="wait", full_timeout=LONG_S))
    return full


def items_done(port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("moodq_items_total{"))


def test_a_flood_of_bulk_harms_neither_interactive_nor_redis(
    redis_url: str, connection: Redis, start_fake_worker: StartFakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = printed_bound(monkeypatch)
    settings = load_settings(redis_url=redis_url)
    port = free_port()
    start_fake_worker(**LIMITS, MOODQ_METRICS_PORT=str(port), MOODQ_CACHE_TTL_S="0")
    answered = 0
    with peak_memory(redis_url) as peak, Client(settings) as client, ThreadPoolExecutor() as pool:
        flooders = [pool.submit(flood, settings, name) for name in ("a", "b")]
        while not all(flooder.done() for flooder in flooders):
            assert client.submit(f"hello {answered}").wait(LONG_S).status == "done"
            answered += 1
            time.sleep(0.05)
        refused = [flooder.result() for flooder in flooders]
        deadline = time.monotonic() + LONG_S
        while (done := items_done(port)) < 2 * FLOOD_ITEMS + answered:
            assert time.monotonic() < deadline, f"{done} of {2 * FLOOD_ITEMS + answered} done"
            time.sleep(0.1)
    print(
        f"FLOOD peak {peak[0] / 2**20:.1f} of {bound / 2**20:.0f} MiB, answered {answered}, refused {refused}"
    )
    assert bound / 2 < peak[0] < bound
    assert done == 2 * FLOOD_ITEMS + answered
    assert answered > 10
    assert all(refused), "a flood that meets no limit shows nothing"
    assert connection.zcard("rq:failed:bulk") == 0
