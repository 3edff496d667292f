"""Tell whoever started this process how it does, in systemd's words (sd_notify).

A datagram to the socket that ``NOTIFY_SOCKET`` names: ``READY=1`` when work is taken, ``STOPPING=1`` when it
is not any more. systemd (``Type=notify``) listens there, and so does ``moodq worker --processes``.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger(__name__)

READY = "READY=1"
STOPPING = "STOPPING=1"
VARIABLE = "NOTIFY_SOCKET"
MAX_MESSAGE_BYTES = 4_096


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send ``state`` with this process's id; nothing where nobody listens."""
    address = environ.get(VARIABLE)
    if not address:
        return
    if address.startswith("@"):  # Linux's abstract names
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(address)
            sender.send(f"{state}\nMAINPID={os.getpid()}".encode())
    except OSError as error:
        log.warning("%s: cannot be told %s (%s)", VARIABLE, state, error.strerror)


class Listener:
    """The other end: a socket for the processes that this one starts."""

    def __init__(self, folder: Path) -> None:
        self.address = str(folder / "notify")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self._socket.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._socket, selectors.EVENT_READ)

    def receive(self, timeout_s: float) -> tuple[int, str] | None:
        """The next message as process id and state; None after ``timeout_s`` and for what is no message."""
        if not self._selector.select(timeout_s):
            return None
        lines = self._socket.recv(MAX_MESSAGE_BYTES).decode("utf-8", "replace").splitlines()
        pid = next((line[8:] for line in lines if line.startswith("MAINPID=")), "")
        return (int(pid), lines[0]) if pid.isdecimal() else None

    def close(self) -> None:
        self._selector.close()
        self._socket.close()


@contextmanager
def listening() -> Iterator[Listener]:
    """A listener in a folder that only this user can enter."""
    with tempfile.TemporaryDirectory(prefix="moodq-") as folder:
        listener = Listener(Path(folder))
        try:
            yield listener
        finally:
            listener.close()
