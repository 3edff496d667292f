"""A queue and a worker for one run: ``moodq up`` as a child process, as a person would start it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from moodq_config.errors import Unavailable
from moodq_producer.client import Client

#: Seconds in which a model may be fetched and converted, the first time.
READY_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 60.0
UP = "from moodq_config.cli import main; main()"


@contextmanager
def workers(*, local: bool) -> Iterator[None]:
    """With ``local`` a worker is alive within; one that was alive before is left alone.

    Raises ``Unavailable`` when none comes to life.
    """
    if not local or _alive():
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", UP, "up"], stdout=sys.stderr.fileno())
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not _alive():
            if (code := process.poll()) is not None:
                raise Unavailable(f"`moodq up` ended with exit code {code}; its message is above")
            if time.monotonic() > deadline:
                raise Unavailable(f"no worker was ready within {READY_TIMEOUT_S:.0f} s")
            time.sleep(0.2)
        yield
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _alive() -> bool:
    try:
        with Client() as client:
            return client.workers_alive() > 0
    except Unavailable:
        return False
