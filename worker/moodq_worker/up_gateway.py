"""The gateway beside the worker of ``moodq up``: a child process, for the worker imports no producer."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from importlib.util import find_spec

from moodq_config.settings import Settings, origins
from moodq_worker.embedded import free_port, port_is_free

#: What the extra [gateway] brings.
PACKAGES = ("fastapi", "uvicorn", "limits", "httpx", "prometheus_client")
READY_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0
#: Seconds before a gateway that ended is started again; the last one repeats.
RESTART_PAUSES_S = (0.5, 2.0, 10.0, 30.0)


def is_installed() -> bool:
    """Whether the extra is there; without it ``up`` does without a gateway."""
    return all(find_spec(name) is not None for name in PACKAGES)


class GatewayProcess:
    """Started at once; ``wait_ready`` tells whether it came up, ``look`` starts another when it ended."""

    def __init__(self, settings: Settings, env: Mapping[str, str], say: Callable[[str], None]) -> None:
        port = settings.gateway_port
        taken = origins(settings)["gateway_port"] == "default" and not port_is_free(port)
        if port == 0 or taken:
            port = free_port()
        host = settings.gateway_host
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self._env = {**env, "MOODQ_GATEWAY_PORT": str(port)}
        self._say = say
        self._ends = 0
        self._again_at: float | None = None
        self._process = self._start()

    def wait_ready(self) -> bool:
        """Wait until it answers; False, and told, when it ended or is too slow. ``up`` goes on without it."""
        deadline = time.monotonic() + READY_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            if self._answers():
                self._say(f"gateway: {self.url}")
                return True
            time.sleep(0.05)
        self._say("the gateway did not start; its message is above. `moodq up --no-gateway` does without")
        return False

    def look(self) -> None:
        """Start it again, after a pause that grows, if it has ended. Returns at once."""
        code = self._process.poll()
        if code is None:
            return
        if self._again_at is None:
            pause_s = RESTART_PAUSES_S[min(self._ends, len(RESTART_PAUSES_S) - 1)]
            self._ends += 1
            self._again_at = time.monotonic() + pause_s
            self._say(f"the gateway ended with {code}; starting another in {pause_s:.1f} s")
        elif time.monotonic() >= self._again_at:
            self._again_at = None
            self._process = self._start()

    def stop(self) -> None:
        """SIGTERM and wait for the answers under way."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._process.wait()

    def _start(self) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C in the terminal is for `up`, which ends it in its turn.
        command = [sys.executable, "-m", "moodq_config.cli", "gateway", "--quiet"]
        return subprocess.Popen(command, env=self._env, start_new_session=True)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._own_url()}/healthz", timeout=2) as answer:  # noqa: S310
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _own_url(self) -> str:
        """How this machine reaches it, also when it listens on every address."""
        return self.url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")
