"""Worker processes as a supervisor keeps them: whoever ends is replaced, and how it ended is written down."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOOK_EVERY_S = 0.1
START_S = 60.0


class Fleet:
    """``size`` workers on ``url``. ``harm`` gives the environment of the n-th worker started."""

    def __init__(
        self,
        folder: Path,
        url: str,
        size: int,
        *,
        harm: Callable[[int], dict[str, str]] = lambda number: {},
        **settings: str,
    ) -> None:
        self._folder = folder
        self._size = size
        self._harm = harm
        self.executions = folder / "executions"
        self.executions.touch()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
        self._env = inherited | {
            "PYTHONPATH": str(ROOT),
            "CHAOS_LOG": str(self.executions),
            "MOODQ_ENGINE": "fake",
            "MOODQ_REDIS_URL": url,
            "MOODQ_METRICS_PORT": "0",
            "MOODQ_LEASE_S": "2",
            "MOODQ_MAX_ATTEMPTS": "20",
            "MOODQ_DATA_DIR": str(folder / "data"),
            "OMP_NUM_THREADS": "1",
            **settings,
        }
        self._started = 0
        self._lock = threading.Lock()
        self._workers: list[subprocess.Popen[bytes]] = []
        self._stopping = threading.Event()
        self.ends: Counter[int] = Counter()
        for _ in range(size):
            self._start()
        self._wait_until_ready()
        self._thread = threading.Thread(target=self._keep, name="fleet", daemon=True)
        self._thread.start()

    def kill_one(self) -> None:
        """kill -9, at random."""
        with self._lock:
            random.choice(self._workers).kill()

    def stop_one(self, number: int) -> Callable[[], None]:
        """SIGSTOP; returns what lets it go on."""
        with self._lock:
            worker = self._workers[number]
        worker.send_signal(signal.SIGSTOP)
        return lambda: worker.send_signal(signal.SIGCONT)

    def logs(self) -> str:
        return "".join(
            path.read_text("utf-8", "replace") for path in sorted(self._folder.glob("worker-*.log"))
        )

    def close(self) -> list[int]:
        """SIGTERM to all; returns their exit codes."""
        self._stopping.set()
        self._thread.join()
        for worker in self._workers:
            worker.send_signal(signal.SIGCONT)
            worker.terminate()
        codes = []
        for worker in self._workers:
            try:
                codes.append(worker.wait(60))
            except subprocess.TimeoutExpired:
                worker.kill()
                codes.append(worker.wait())
        return codes

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while self.logs().count("ready: worker ") < self._size:
            if time.monotonic() > deadline or any(worker.poll() is not None for worker in self._workers):
                raise RuntimeError(f"the workers do not start:\n{self.logs()}")
            time.sleep(0.05)

    def _start(self) -> None:
        number = self._started
        self._started += 1
        with (self._folder / f"worker-{number:04d}.log").open("wb") as output:
            self._workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tests.chaos.worker"],
                    env={**self._env, **self._harm(number)}, cwd=self._folder, stdout=output, stderr=output,
                )
            )  # fmt: skip

    def _keep(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                for worker in list(self._workers):
                    if (code := worker.poll()) is not None:
                        self.ends[code] += 1
                        self._workers.remove(worker)
                        self._start()
            time.sleep(LOOK_EVERY_S)
