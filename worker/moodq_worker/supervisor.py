"""``moodq worker --processes``: a parent that starts workers, keeps them alive and ends them together.

    parent (no engine, no Redis)
      ├── worker 0   cores 0-7    port base      the first starts alone: what is wrong is said once
      ├── worker 1   cores 8-15   port base + 1
      └── …

Each child is an ordinary ``python -m moodq_worker`` whose environment holds its share: ``MOODQ_THREADS``,
``MOODQ_METRICS_PORT``, ``MOODQ_WORKER_NAME``, ``CUDA_VISIBLE_DEVICES``. The parent knows nothing of their
work: what a child had in hand when it died is taken over like that of any dead worker.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from moodq_config.errors import Unavailable
from moodq_config.settings import Settings
from moodq_worker.cores import Share
from moodq_worker.exit_codes import EXIT_PUT_BACK
from moodq_worker.notify import READY, STOPPING, VARIABLE, Listener, listening, notify

log = logging.getLogger(__name__)

#: Seconds between looks at the children.
TURN_S = 0.1
#: Seconds to wait before a worker that ended is started again; the last one repeats.
RESTART_PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
#: A worker that lived this long has not "ended at once".
SETTLED_S = 60.0
#: Times in a row one worker may end before it was ready, once any has been; and when it ends for want of
#: Redis or a port, which may come back: together more than a minute, in which a failover is over.
FAILED_STARTS = 3
FAILED_STARTS_UNAVAILABLE = 8
#: Seconds beyond ``MOODQ_DRAIN_TIMEOUT_S`` in which a draining worker hands its last results over.
HAND_OVER_S = 15.0
#: Exit codes of a worker that was asked to end, by a signal or a command.
ASKED_TO_END = (0, EXIT_PUT_BACK)

#: ``prctl``: the signal a process gets when its parent dies (Linux).
_PR_SET_PDEATHSIG = 1
_PRCTL = getattr(ctypes.CDLL(None), "prctl", None)


@dataclass(slots=True)
class _Child:
    """One worker and its successors. Neither ``process`` nor ``due``: it is over."""

    index: int
    share: Share
    process: subprocess.Popen[bytes] | None = None
    #: When to start it, on the monotonic clock.
    due: float | None = 0.0
    born: float = 0.0
    ready: bool = False
    #: Ends in a row soon after the start, and how many of the last ones were before it was ready.
    ends: int = 0
    failed_starts: int = 0

    def __str__(self) -> str:
        return f"worker {self.index}"


class Supervisor:
    """Runs one worker for each share until they are told to stop, or cannot start."""

    def __init__(self, settings: Settings, shares: Sequence[Share]) -> None:
        self._settings = settings
        self._children = [_Child(index, share) for index, share in enumerate(shares)]
        self._signals = 0
        self._told_ready = False
        self._any_was_ready = False
        #: Set once: since when everything ends, and with which code if not with those of the children.
        self._stopping_since: float | None = None
        self._exit_code: int | None = None
        self._end_codes: list[int] = []

    def run(self) -> int:
        """Returns the exit code: 0 when all drained, 75 after a second signal, that of a worker that cannot
        be started, else that of the first one that ended otherwise when told to."""
        with listening() as listener, self._counting_signals():
            try:
                while not self._over():
                    self._turn(listener)
            finally:
                self._kill_all()
        if self._exit_code is not None:
            return self._exit_code
        return next((code for code in self._end_codes if code not in ASKED_TO_END), max(self._end_codes))

    def _turn(self, listener: Listener) -> None:
        if message := listener.receive(TURN_S):
            self._heard(*message)
        passed_on = self._signals
        for child in self._children:
            if child.process is not None and (code := child.process.poll()) is not None:
                self._ended(child, _as_exit_code(code))
        if passed_on and self._stopping_since is None:
            self._stop("draining; a second signal puts back what runs")
        elif passed_on > 1:
            self._pass_on_again()
        if self._stopping_since is None:
            for child in self._children:
                if self._may_start(child):
                    self._start(child, listener)
        elif time.monotonic() > self._stopping_since + self._settings.drain_timeout_s + HAND_OVER_S:
            self._kill_all()

    # -- the life of a child ------------------------------------------------------------------------------

    def _may_start(self, child: _Child) -> bool:
        return (
            child.due is not None
            and time.monotonic() >= child.due
            and (child.index == 0 or self._any_was_ready)
        )

    def _start(self, child: _Child, listener: Listener) -> None:
        settings = self._settings
        port = settings.metrics_port
        env = {
            **os.environ,
            "MOODQ_PROCESSES": "1",
            "MOODQ_THREADS": str(child.share.threads),
            "MOODQ_METRICS_PORT": str(port + child.index if port else 0),
            VARIABLE: listener.address,
        }
        if settings.worker_name is not None:
            env["MOODQ_WORKER_NAME"] = f"{settings.worker_name}-{child.index}"
        if child.share.gpu is not None:
            env["CUDA_VISIBLE_DEVICES"] = child.share.gpu
        child.process = subprocess.Popen(
            [sys.executable, "-m", "moodq_worker"],
            env=env,
            # A session of its own: Ctrl-C comes from the parent alone, not twice.
            start_new_session=True,
            # The parent has no threads, so this is safe between fork and exec.
            preexec_fn=_settle_in(child.share.cores, os.getpid()),
        )
        child.due, child.born, child.ready = None, time.monotonic(), False
        log.info("%s: started, pid %d, %s", child, child.process.pid, child.share)

    def _heard(self, pid: int, state: str) -> None:
        child = next((one for one in self._children if one.process and one.process.pid == pid), None)
        if child is None or state != READY:
            return
        child.ready, child.failed_starts = True, 0
        self._any_was_ready = True
        log.info("%s: ready after %.1f s", child, time.monotonic() - child.born)
        if not self._told_ready and all(one.ready for one in self._children):
            self._told_ready = True
            log.info("all %d workers are ready", len(self._children))
            notify(READY)

    def _ended(self, child: _Child, code: int) -> None:
        child.process = None
        if self._stopping_since is not None:
            # One that was told to end before it could hear it has nothing to drain.
            self._end_codes.append(0 if code == 128 + signal.SIGTERM and not child.ready else code)
            return
        if code in ASKED_TO_END and child.ready:
            log.info("%s: ended as it was asked to (exit code %d)", child, code)
            self._end_codes.append(code)
            return
        lived = time.monotonic() - child.born
        child.ends = 1 if lived > SETTLED_S else child.ends + 1
        child.failed_starts += not child.ready
        patience = FAILED_STARTS_UNAVAILABLE if code == Unavailable.exit_code else FAILED_STARTS
        if not child.ready and (not self._any_was_ready or child.failed_starts >= patience):
            self._exit_code = code or 1
            self._stop(f"{child} ended with exit code {code} before it was ready; its message is above")
            return
        pause = RESTART_PAUSES_S[min(child.ends, len(RESTART_PAUSES_S)) - 1]
        child.due = time.monotonic() + pause
        log.warning("%s: ended with exit code %d; starting another in %.1f s", child, code, pause)

    # -- the end ------------------------------------------------------------------------------------------

    def _stop(self, why: str) -> None:
        log.info("stopping: %s", why)
        notify(STOPPING)
        self._stopping_since = time.monotonic()
        for child in self._children:
            child.due = None
        self._send_all(signal.SIGTERM)
        self._signals = min(self._signals, 1)

    def _pass_on_again(self) -> None:
        log.warning("a second signal: the workers put back what runs")
        self._signals = 1
        self._send_all(signal.SIGTERM)

    def _send_all(self, number: signal.Signals) -> None:
        for child in self._children:
            if child.process is not None:
                child.process.send_signal(number)

    def _kill_all(self) -> None:
        for child in self._children:
            if child.process is not None:
                log.error("%s does not end; killing it", child)
                child.process.kill()
                self._end_codes.append(_as_exit_code(child.process.wait()))
                child.process = None

    def _over(self) -> bool:
        return all(child.process is None and child.due is None for child in self._children)

    @contextmanager
    def _counting_signals(self) -> Iterator[None]:
        def count(signum: int, frame: FrameType | None) -> None:
            self._signals += 1

        before = {number: signal.signal(number, count) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _settle_in(cores: tuple[int, ...], parent: int) -> Callable[[], None]:
    """What a child does before it becomes a worker: take its cores, and drain should the parent die."""

    def settle() -> None:
        if cores:
            os.sched_setaffinity(0, cores)
        if _PRCTL is not None:
            _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM)
            if os.getppid() != parent:  # it died before this was said
                os._exit(0)

    return settle


def _as_exit_code(returncode: int) -> int:
    """As a shell says it: 128 and the signal's number for a process that a signal ended."""
    return 128 - returncode if returncode < 0 else returncode
