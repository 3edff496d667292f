"""What a soak looks at: memory, threads, files, connections and keys, and whether they grow.

A slope is of the least squares line through the samples after the warm-up; what it comes to over the time
measured is held against a bound.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil  # type: ignore[import-untyped]
from redis import Redis

MIB = 2**20


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure may grow by, along its line, over the time measured: ``share`` of its mean, and ``plus``,
    which it moves by without any leak."""

    share: float
    plus: float


#: Memory in MiB. The longer the soak, the slower the leak it finds.
BOUNDS = {
    "rss_mb": Bound(0.05, 4.0),
    "threads": Bound(0.0, 1.0),
    "files": Bound(0.0, 3.0),
    "connections": Bound(0.0, 3.0),
    # These follow the load, which a busy machine slows down and lets catch up; what never expires is found at
    # the end, when nothing may be left.
    "keys": Bound(0.15, 100.0),
    "used_memory_mb": Bound(0.15, 2.0),
}


class Sampler:
    """Reads processes by name, and the server."""

    def __init__(self, processes: Mapping[str, int], connection: Redis) -> None:
        self._processes = {name: psutil.Process(pid) for name, pid in processes.items()}
        self._connection: Any = connection

    def read(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for name, process in self._processes.items():
            try:
                with process.oneshot():
                    found[f"{name} rss_mb"] = process.memory_info().rss / MIB
                    found[f"{name} threads"] = process.num_threads()
                    found[f"{name} files"] = process.num_fds()
            except psutil.NoSuchProcess:
                continue
        info = self._connection.info()
        found["server connections"] = info["connected_clients"]
        found["server used_memory_mb"] = info["used_memory"] / MIB
        found["server keys"] = self._connection.dbsize()
        return found


@dataclass(frozen=True, slots=True)
class Slope:
    """``per_hour`` and ``growth`` (over the time measured) in the figure's unit."""

    mean: float
    per_hour: float
    growth: float
    bound: float

    @property
    def flat(self) -> bool:
        return self.growth <= self.bound


def slopes(samples: Sequence[tuple[float, Mapping[str, float]]]) -> dict[str, Slope]:
    """``samples`` are seconds and figures, at least two, warm-up left out."""
    times = [at for at, _ in samples]
    found = {}
    for name in samples[0][1]:
        values = [figures[name] for _, figures in samples if name in figures]
        if len(values) < len(times):
            continue  # a process that ended early is told elsewhere
        per_s, mean = statistics.linear_regression(times, values).slope, statistics.fmean(values)
        bound = BOUNDS[name.split()[-1]]
        found[name] = Slope(
            mean, per_s * 3600, per_s * (times[-1] - times[0]), bound.share * mean + bound.plus
        )
    return found
