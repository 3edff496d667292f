"""``python -m tests.chaos.worker``: a worker that writes down what it runs, and harms itself if told to.

It is ``moodq worker`` with three patches, by environment: ``CHAOS_LOG``, a file that gets one line for every
text the engine runs; ``CHAOS_DIE=point:n``, kill -9 by its own hand when it comes to that point for the n-th
time; ``CHAOS_HANG=n``, the n-th forward pass never ends; ``CHAOS_CLOCK_H=hours``, a wall clock that steps
that far to and fro, every second.
"""

from __future__ import annotations

import datetime
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

_ID = re.compile(rb"c-[a-z_]+-\d+")
#: Where a worker can be told to die. There is none between claim and registration: that is one script.
POINTS = ("claimed", "forward", "unwritten", "half-written", "written", "failing", "taken-over")


def die_at(point: str, count: int) -> None:
    """Kill this process when it has come to ``point`` ``count`` times."""
    from moodq_worker import rq_worker
    from moodq_worker.engine_fake import FakeEngine
    from moodq_worker.rq_finish import FinishScript
    from moodq_worker.rq_scripts import Scripts

    left = count

    def pass_by(there: bool = True) -> None:
        nonlocal left
        left -= there
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(cls: Any, name: str, counts: Callable[..., bool] = lambda *_: True) -> None:
        real = getattr(cls, name)

        def patched(self: Any, *args: Any, **named: Any) -> Any:
            pass_by(counts(*args))
            return real(self, *args, **named)

        setattr(cls, name, patched)

    def after(cls: Any, name: str, counts: Callable[..., bool]) -> None:
        real = getattr(cls, name)

        def patched(self: Any, *args: Any, **named: Any) -> Any:
            found = real(self, *args, **named)
            pass_by(counts(found, *args))
            return found

        setattr(cls, name, patched)

    if point == "claimed":
        after(Scripts, "claim", lambda rows, *_: bool(rows))
    elif point == "forward":
        before(FakeEngine, "_spend")
    elif point == "unwritten":
        before(FinishScript, "__call__")
    elif point == "half-written":
        vars(rq_worker)["RESULTS_AT_ONCE"] = 1  # a call for each result, the jobs with the last
        after(FinishScript, "__call__", lambda _, worker, results, jobs, *more: bool(results) and not jobs)
    elif point == "written":
        after(FinishScript, "__call__", lambda *_: True)
    elif point == "failing":
        before(rq_worker.BatchWorker, "fail")
    elif point == "taken-over":
        after(Scripts, "take_over", lambda found, *_: bool(found[0]))
    else:
        raise SystemExit(f"{point!r} is not one of {', '.join(POINTS)}")


def watch_engine(log: str, hang_at: int) -> None:
    """Write every text the engine labels into ``log``, in one write a batch; hang in the ``hang_at``-th."""
    from moodq_worker.engine_fake import FakeEngine

    real = FakeEngine.label
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    passes = 0

    def label(self: FakeEngine, tasks: Any, lang: Any, texts: Any, choices: Any = (), **of: Any) -> Any:
        nonlocal passes
        passes += 1
        ids = (_ID.match(bytes(text)) for text in texts)
        os.write(file, b"".join(id[0] + b"\n" for id in ids if id))
        if passes == hang_at:
            time.sleep(3600)
        return real(self, tasks, lang, texts, choices, **of)

    FakeEngine.label = label  # type: ignore[method-assign]


def step_clock(hours: float) -> None:
    """Wrong by ``hours``, forwards and backwards in turn. Before anything else is imported."""
    real_time, real_datetime = time.time, datetime.datetime

    def offset_s() -> float:
        return hours * 3600 * (1 if int(real_time()) % 2 else -1)

    class Wrong(real_datetime):  # type: ignore[valid-type,misc]
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return real_datetime.fromtimestamp(real_time() + offset_s(), tz)

    time.time = lambda: real_time() + offset_s()
    datetime.datetime = Wrong  # type: ignore[misc]


def main() -> int:
    """Patch, then run a worker."""
    if hours := os.environ.get("CHAOS_CLOCK_H"):
        step_clock(float(hours))
    from moodq_worker.__main__ import main as run

    watch_engine(os.environ["CHAOS_LOG"], int(os.environ.get("CHAOS_HANG", 0)))
    if told := os.environ.get("CHAOS_DIE"):
        point, _, count = told.partition(":")
        die_at(point, int(count))
    return run()


if __name__ == "__main__":
    sys.exit(main())
