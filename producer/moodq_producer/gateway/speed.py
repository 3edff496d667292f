"""Items a second of all workers, from what each tells of itself: the live view's figure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from moodq_config.worker_info import WorkerInfo

#: Seconds over which the speed is taken.
WINDOW_S = 10.0


class Speed:
    """Remembers the readings of the last ``WINDOW_S``; counts of a worker begin with it."""

    def __init__(self) -> None:
        self._readings: dict[str, deque[tuple[float, int]]] = {}

    def now(self, told: Mapping[str, WorkerInfo]) -> float:
        """Take a reading of the living workers; 0 until there are two of one."""
        self._readings = {name: self._readings.get(name, deque()) for name in told}
        return sum(self._of(self._readings[name], info) for name, info in told.items())

    def _of(self, readings: deque[tuple[float, int]], info: WorkerInfo) -> float:
        done = items_of(info)
        if readings and done < readings[-1][1]:
            readings.clear()  # another worker of the same name
        if not readings or info.at > readings[-1][0]:
            readings.append((info.at, done))
        while len(readings) > 2 and info.at - readings[0][0] > WINDOW_S:
            readings.popleft()
        (began, before), (ended, after) = readings[0], readings[-1]
        return (after - before) / (ended - began) if ended > began else 0.0


def items_of(info: WorkerInfo) -> int:
    """What a worker has answered or refused; a text with two tasks counts as two."""
    return sum(sum(counts) for counts in info.latencies.queues.values())
