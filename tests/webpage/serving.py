"""What the page needs, as real processes: a Valkey server, the gateway, and workers that come and go."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from chaos.servers import Server
from moodq_worker.embedded import free_port

START_S = 120.0
STOP_S = 30.0


class Serving:
    """``settings`` are MOODQ_ variables of gateway and workers, without the prefix and in any case."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._folder = folder
        self._redis = Server(folder / "server").start()
        self.redis: Any = self._redis.client
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}/"
        self._settings = {"engine": "fake", "data_dir": str(folder / "data"), **settings}
        self._gateway: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []
        self._started = 0

    def start_gateway(self, **settings: str) -> None:
        """On the same port each time; returns when it answers."""
        self._gateway = self._start([_moodq(), "gateway", "--port", str(self._port)], settings)
        self._until(self._answers, self._gateway)

    def start_worker(self, **settings: str) -> None:
        """Returns when it is ready for texts."""
        name = f"worker-{self._started}"
        command = [sys.executable, "-m", "moodq_worker"]
        worker = self._start(command, {"metrics_port": "0", "worker_name": name, "lease_s": "2", **settings})
        self._workers.append(worker)
        ready = (b"idle", b"busy")
        self._until(lambda: self.redis.hget(f"rq:worker:{name}", "state") in ready, worker)

    def stop_gateway(self) -> None:
        """As when it is killed: open streams break."""
        if self._gateway is not None:
            self._gateway.kill()
            self._gateway.wait(STOP_S)
            self._gateway = None

    def empty(self) -> None:
        """Forget everything but the workers."""
        for key in self.redis.scan_iter("*"):
            if not key.startswith((b"rq:worker", b"moodq:worker")):
                self.redis.delete(key)

    def close(self) -> None:
        self.stop_gateway()
        for worker in self._workers:
            worker.kill()
            worker.wait(STOP_S)
        self._redis.close()

    def logs(self) -> str:
        return "".join(path.read_text("utf-8", "replace") for path in sorted(self._folder.glob("*.log")))

    def _start(self, command: list[str], settings: dict[str, str]) -> subprocess.Popen[bytes]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
        own = {f"MOODQ_{name.upper()}": value for name, value in {**self._settings, **settings}.items()}
        self._started += 1
        with (self._folder / f"{self._started}.log").open("wb") as output:
            return subprocess.Popen(
                command,
                env={**inherited, "MOODQ_REDIS_URL": self._redis.url, **own},
                cwd=self._folder,
                stdout=output,
                stderr=output,
            )

    def _until(self, holds: Any, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_S
        while not holds():
            assert process.poll() is None, f"ended with {process.returncode}:\n{self.logs()}"
            assert time.monotonic() < deadline, f"not ready:\n{self.logs()}"
            time.sleep(0.05)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self.url + "healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, urllib.error.URLError):
            return False


def _moodq() -> str:
    return str(Path(sys.executable).with_name("moodq"))
