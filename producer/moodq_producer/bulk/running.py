"""A queue and a worker for one run: ``moodq up`` as a child process, as a person would start it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from moodq_config.errors import Unavailable
from moodq_config.settings import load_settings, server_url
from moodq_producer.client import Client
from moodq_producer.connection import connect, redis_errors
from moodq_producer.stats import read_stats

#: Seconds in which a model may be fetched and converted, the first time.
READY_TIMEOUT_S = 900.0
STOP_TIMEOUT_S = 60.0
# It ends with this process however that ends: the end of its standard input is its SIGTERM.
UP = """
import os, signal, sys, threading
def watch():
    while os.read(0, 4096):  # not by way of sys.stdin, whose lock would be held when the interpreter ends
        pass
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=watch, daemon=True).start()
sys.argv[0] = "moodq"
from moodq_config.cli import main
main()
"""


@contextmanager
def workers(queue: str, *, local: bool) -> Iterator[None]:
    """Within, a worker that takes new jobs is alive, unless it dies. With ``local`` one is started if none
    is, and stopped afterwards; one that was alive before is left alone.

    Raises ``Unavailable`` when there is none.
    """
    if not local:
        with Client() as client:  # whose rights need not reach further than a producer's
            alive = client.workers_alive()
        if not alive:
            raise Unavailable(
                "no worker is alive, so nothing would be labelled; start one with `moodq worker` (`moodq up` "
                "for everything), or let this command do it with --local"
            )
        yield
        return
    if _served(queue):
        yield
        return
    # Ctrl-C is for this process, which stops the other when it is done with it.
    process = subprocess.Popen(
        [sys.executable, "-c", UP, "up"],
        stdin=subprocess.PIPE,
        stdout=sys.stderr.fileno(),
        start_new_session=True,
        env={"MOODQ_LOG_JOBS": "failed", **os.environ},  # the progress tells of the others
    )
    try:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while not _served(queue):
            if (code := process.poll()) is not None:
                raise Unavailable(f"`moodq up` ended with exit code {code}; its message is above")
            if time.monotonic() > deadline:
                raise Unavailable(f"no worker was ready within {READY_TIMEOUT_S:.0f} s")
            time.sleep(0.2)
        yield
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdin is not None:
            process.stdin.close()


def _served(queue: str) -> bool:
    """Whether a living worker takes jobs of ``queue``; one that drains does not."""
    settings = load_settings()
    try:
        with connect(settings) as connection, redis_errors(server_url(settings)):
            found = read_stats(connection, settings.queues)
    except Unavailable:
        return False
    serving = found.queues[queue].workers if queue in found.queues else 0
    return serving > 0 and any(state != "draining" for state in found.states.values())
