"""The real model in real processes: one server and one worker for all end-to-end tests of the session."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from redis import Redis

from moodq_config.names import INTERACTIVE
from moodq_config.settings import load_settings
from moodq_worker.embedded import ensure_server, free_port
from moodq_worker.model_store import ModelFiles, resolve
from moodq_worker.openmp import wait_briefly
from moodq_worker.up import start_worker, stop_worker

wait_briefly(os.environ)  # before any test module loads torch
BUSY_TIMEOUT_S = 60.0
#: The service's own tasks file, for tests that edit it.
OWN_TASKS = """
[tasks.story]
kind = "generate"
max_new_tokens = 60
prompt.zh = { system = "根据文本写一个短故事。" }
prompt.en = { system = "Write a short story about the text." }

[tasks.chat]
kind = "generate"
conversation = true
max_new_tokens = 32
prompt.zh = { system = "用一句话回答。" }
prompt.en = { system = "Answer in one short sentence." }
"""


@dataclass
class RealService:
    """``env`` is for client and worker processes alike."""

    redis_url: str
    metrics_url: str
    env: dict[str, str]
    tasks_file: Path
    worker: subprocess.Popen[bytes] | None = field(default=None)

    def start_worker(self) -> None:
        """Start a worker and return when it is ready."""
        self.worker = start_worker(self.env, self.metrics_url)

    def kill_worker(self) -> None:
        """End the worker without warning."""
        assert self.worker is not None
        self.worker.kill()
        self.worker.wait()

    def wait_until_busy(self) -> None:
        """Return when jobs are leased, so that a kill hits work in hand."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        with Redis.from_url(self.redis_url) as connection:
            while not connection.zcard(f"rq:wip:{INTERACTIVE}"):
                assert time.monotonic() < deadline, "the worker claimed nothing"
                time.sleep(0.01)


@pytest.fixture(scope="session")
def model_files() -> ModelFiles:
    """The default model, fetched and converted on the first run of all."""
    return resolve(load_settings(), progress=lambda line: print(line, file=sys.stderr))


@pytest.fixture(scope="session")
def service(model_files: ModelFiles, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealService]:
    """An embedded server in a folder of its own, and a ready worker with the real model."""
    folder = tmp_path_factory.mktemp("data")
    server = ensure_server(load_settings(data_dir=folder))
    port = free_port()
    tasks_file = folder / "tasks.toml"
    tasks_file.write_text(OWN_TASKS, "utf-8")
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MOODQ_")}
    env = {
        **inherited,
        "MOODQ_REDIS_URL": server.url,
        "MOODQ_METRICS_PORT": str(port),
        "MOODQ_MODEL": str(Path(model_files.path)),
        "MOODQ_LEASE_S": "6",
        "MOODQ_TASKS_FILE": str(tasks_file),
    }
    real = RealService(server.url, f"http://127.0.0.1:{port}", env, tasks_file)
    real.start_worker()
    try:
        yield real
    finally:
        assert real.worker is not None
        code = stop_worker(real.worker, drain_timeout_s=30)
        server.stop()
    assert code == 0
