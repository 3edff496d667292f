"""``moodq up``: model, server, gateway and one worker, started in this order and stopped in the other.

The worker is a child process. When it ends by itself it is started again, after a pause that grows while it
keeps ending at once.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from moodq_config.errors import Unavailable
from moodq_config.settings import Settings, mask_url
from moodq_worker.embedded import EmbeddedServer, ensure_server, free_port
from moodq_worker.up_gateway import GatewayProcess, is_installed

READY_TIMEOUT_S = 180.0
#: Seconds to wait before a worker that ended is started again; the last one repeats.
RESTART_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
#: A worker that lived this long has not "ended at once".
SETTLED_S = 60.0

Say = Callable[[str], None]


@dataclass(slots=True)
class Service:
    """What ``running`` hands out: where everything is."""

    redis_url: str
    metrics_url: str
    env: dict[str, str]
    worker: subprocess.Popen[bytes]
    gateway: GatewayProcess | None = None


@contextmanager
def running(settings: Settings, say: Say, *, with_gateway: bool = False) -> Iterator[Service]:
    """A server (unless the settings name one) and a ready worker, for as long as the context lasts; with a
    gateway, if its extra is installed."""
    ensure_model(settings, say)
    server: EmbeddedServer | None = None
    gateway: GatewayProcess | None = None
    url = settings.redis_url
    if url is None:
        server = ensure_server(settings)
        url = server.url
        say(f"queue: {url} ({'started' if server.started_here else 'found running'})")
    try:
        port = settings.metrics_port or free_port()
        env = {
            **os.environ,
            "MOODQ_REDIS_URL": url,
            "MOODQ_METRICS_PORT": str(port),
            "MOODQ_DATA_DIR": str(settings.data_dir),
        }
        metrics_url = f"http://{settings.metrics_host}:{port}"
        if with_gateway and is_installed():
            gateway = GatewayProcess(settings, env, say)
        worker = start_worker(env, metrics_url)
        service = Service(url, metrics_url, env, worker, gateway)
        say(f"worker: ready, pid {worker.pid}; metrics: {metrics_url}/metrics")
        if gateway is not None:
            gateway.wait_ready()
        try:
            yield service
        finally:
            stop_worker(service.worker, settings.drain_timeout_s)
    finally:
        if gateway is not None:
            gateway.stop()
        if server is not None:
            server.stop()


def ensure_model(settings: Settings, say: Say) -> None:
    """Fetch and convert the model if need be, before anything is started."""
    if settings.engine == "hf":
        from moodq_worker.model_store import resolve

        resolve(settings, progress=say)


def start_worker(env: dict[str, str], metrics_url: str) -> subprocess.Popen[bytes]:
    """Start ``python -m moodq_worker`` and return when it is ready. Raises ``Unavailable``."""
    worker = subprocess.Popen([sys.executable, "-m", "moodq_worker"], env=env, start_new_session=True)
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not _ready(metrics_url):
        code = worker.poll()
        if code is not None:
            raise Unavailable(
                f"the worker ended with exit code {code} before it was ready; its message is above"
            )
        if time.monotonic() > deadline:
            worker.kill()
            raise Unavailable(f"the worker was not ready within {READY_TIMEOUT_S:.0f} s")
        time.sleep(0.1)
    return worker


def stop_worker(worker: subprocess.Popen[bytes], drain_timeout_s: float) -> int:
    """SIGTERM and wait for the drain; a worker that does not end is killed. Returns its exit code."""
    if worker.poll() is None:
        worker.terminate()
        try:
            return worker.wait(drain_timeout_s + 15)
        except subprocess.TimeoutExpired:
            worker.kill()
    return worker.wait()


def stay_up(settings: Settings, say: Say, *, with_gateway: bool = True) -> int:
    """Run until SIGINT or SIGTERM; returns the exit code."""
    with _stop_requested() as stopping, running(settings, say, with_gateway=with_gateway) as service:
        say(
            "\nready. In another terminal:\n"
            '  moodq send "今天的实验终于成功了，太棒了！" --tasks sentiment,reply\n'
            "  moodq stats\n"
            f"Redis: {mask_url(service.redis_url)}   Ctrl-C drains and stops.\n"
        )
        born, failures = time.monotonic(), 0
        while not stopping():
            if service.gateway is not None:
                service.gateway.look()
            if service.worker.poll() is None:
                time.sleep(0.2)
                continue
            failures = failures + 1 if time.monotonic() - born < SETTLED_S else 1
            pause = RESTART_PAUSES_S[min(failures, len(RESTART_PAUSES_S)) - 1]
            say(f"the worker ended with {service.worker.returncode}; starting another in {pause:.1f} s")
            time.sleep(pause)
            if stopping():
                break
            try:
                service.worker = start_worker(service.env, service.metrics_url)
                say(f"worker: ready, pid {service.worker.pid}")
            except Unavailable as error:
                say(error.message)
            born = time.monotonic()
        say("draining")
    return 0


@contextmanager
def _stop_requested() -> Iterator[Callable[[], bool]]:
    """A function that tells whether SIGINT or SIGTERM came; the handlers are put back afterwards."""
    seen: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        seen.append(signum)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ready(metrics_url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{metrics_url}/readyz", timeout=2) as answer:  # noqa: S310 - our own URL
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False
