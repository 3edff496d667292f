"""Test hosts on one machine: network namespaces with their own addresses, on a bridge that only they share.

The server's namespace holds the bridge; each host has one cable (a veth pair) into it and no other way out,
so nothing here can reach, or be reached from, any other network. Processes outside talk to the server by its
unix socket. Needs root and iproute2; ``refusal`` says what is missing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO

PREFIX = "moodq-scale"
NAMESPACES = Path("/run/netns")
BRIDGE = "bridge"
CABLE = "eth0"
SUBNET = "10.77.0"
SERVER_ADDRESS = f"{SUBNET}.1"
MOST_HOSTS = 16
COMMAND_S = 10


def ip(*words: str) -> None:
    """Run iproute2's ``ip``. Raises ``RuntimeError`` with what it says."""
    _run("ip", *words)


def refusal() -> str | None:
    """Why no hosts can be made here; None if they can."""
    if shutil.which("ip") is None:
        return "iproute2 is not installed"
    if os.geteuid() != 0:
        return "network namespaces need root"
    try:
        with Network() as network:
            network.add_host()
    except RuntimeError as error:
        return f"network namespaces are not allowed here: {error}"
    return None


class Host:
    """One namespace with one cable. Its processes see their own loopback and the bridge, nothing else."""

    def __init__(self, namespace: str, address: str) -> None:
        self.namespace = namespace
        self.address = address

    def popen(
        self, command: Sequence[str], output: IO[bytes], env: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process on this host; its id is the process's own."""
        within = ["ip", "netns", "exec", self.namespace, *command]
        return subprocess.Popen(within, env=env, stdout=output, stderr=subprocess.STDOUT)

    def cut(self) -> None:
        """Pull the cable: nothing comes in or goes out, and nobody is told."""
        ip("-n", self.namespace, "link", "set", CABLE, "down")

    def join(self) -> None:
        """Put it back in."""
        ip("-n", self.namespace, "link", "set", CABLE, "up")


class Network:
    """A bridge with a server's place on it, and hosts as they are added. Leaves nothing behind."""

    def __init__(self) -> None:
        self._name = f"{PREFIX}-{os.getpid()}"
        self.server = Host(f"{self._name}-server", SERVER_ADDRESS)
        self.hosts: list[Host] = []

    def __enter__(self) -> Network:
        remove_leftovers()
        try:
            ip("netns", "add", self.server.namespace)
            within = ("-n", self.server.namespace)
            ip(*within, "link", "set", "lo", "up")
            ip(*within, "link", "add", BRIDGE, "type", "bridge", "forward_delay", "0")
            ip(*within, "address", "add", f"{SERVER_ADDRESS}/24", "dev", BRIDGE)
            ip(*within, "link", "set", BRIDGE, "up")
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def add_host(self) -> Host:
        """One more host, with the next address."""
        number = len(self.hosts) + 1
        if number > MOST_HOSTS:
            raise ValueError(f"{MOST_HOSTS} hosts at most")
        host = Host(f"{self._name}-{number}", f"{SUBNET}.{number + 1}")
        self.hosts.append(host)
        port = f"port{number}"
        ip("netns", "add", host.namespace)
        within, at_server = ("-n", host.namespace), ("-n", self.server.namespace)
        ip(*at_server, "link", "add", port, "type", "veth", "peer", "name", CABLE, "netns", host.namespace)
        ip(*at_server, "link", "set", port, "master", BRIDGE, "up")
        ip(*within, "link", "set", "lo", "up")
        ip(*within, "address", "add", f"{host.address}/24", "dev", CABLE)
        ip(*within, "link", "set", CABLE, "up")
        return host

    def delay(self, host: Host, round_trip_ms: float) -> bool:
        """Delay what leaves either end of the host's cable by half of ``round_trip_ms``. False where this
        kernel has no netem: ``delay.py`` stands in then."""
        half = f"{round_trip_ms / 2:g}ms"
        port = f"port{self.hosts.index(host) + 1}"
        try:
            for namespace, device in ((host.namespace, CABLE), (self.server.namespace, port)):
                _run("tc", "-n", namespace, "qdisc", "add", "dev", device, "root", "netem", "delay", half)
        except RuntimeError:
            return False
        return True

    def _remove(self) -> None:
        """Deleting a namespace deletes its end of every cable, which deletes the other."""
        for host in (*self.hosts, self.server):
            if (NAMESPACES / host.namespace).exists():
                ip("netns", "delete", host.namespace)
        self.hosts = []


def remove_leftovers() -> None:
    """Delete the namespaces of runs that were killed."""
    for path in NAMESPACES.glob(f"{PREFIX}-*"):
        owner = path.name.removeprefix(f"{PREFIX}-").partition("-")[0]
        if owner.isdigit() and not Path(f"/proc/{owner}").exists():
            ip("netns", "delete", path.name)


def end(process: subprocess.Popen[bytes], *, patience_s: float) -> int:
    """SIGTERM, and after ``patience_s`` SIGKILL; returns the exit code."""
    process.terminate()
    deadline = time.monotonic() + patience_s
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    if process.poll() is None:
        process.kill()
    return process.wait()


def _run(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, encoding="utf-8", timeout=COMMAND_S)
    except FileNotFoundError:
        raise RuntimeError(f"{command[0]} is not installed") from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"{' '.join(command)}: {error.stderr.strip()}") from None
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{' '.join(command)} did not end within {COMMAND_S} s") from None
