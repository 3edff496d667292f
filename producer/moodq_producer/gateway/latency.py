"""How long texts of each queue take now, from what each worker tells of itself: the live view's figure."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import BaseModel, Field

from moodq_config.worker_info import WorkerInfo

#: Seconds of which texts count.
WINDOW_S = 60.0


class LatencyShown(BaseModel):
    """Seconds from enqueueing to the result, within which half, and 95 of 100, of the last minute's texts had
    theirs; between the ends of a worker's buckets they are interpolated."""

    p50: float = Field(examples=[0.06])
    p95: float = Field(examples=[0.14])


Counts = tuple[int, ...]


@dataclass(slots=True)
class _Worker:
    bounds: tuple[float, ...]
    readings: deque[tuple[float, Mapping[str, Counts]]] = field(default_factory=deque)

    def take(self, info: WorkerInfo) -> None:
        readings = self.readings
        if not readings or info.at > readings[-1][0]:
            readings.append((info.at, info.latencies.queues))
        while len(readings) > 2 and info.at - readings[0][0] > WINDOW_S:
            readings.popleft()

    def of(self, queue: str) -> list[int]:
        """Texts by bucket between the first reading and the last."""
        nothing = (0,) * (len(self.bounds) + 1)
        first, last = (self.readings[n][1].get(queue, nothing) for n in (0, -1))
        if len(first) != len(nothing) or len(last) != len(nothing):
            return list(nothing)
        return [after - before for before, after in zip(first, last, strict=True)]


class LatencyNow:
    """Remembers the readings of the last ``WINDOW_S``; counts of a worker begin with it."""

    def __init__(self) -> None:
        self._workers: dict[str, _Worker] = {}

    def now(self, told: Mapping[str, WorkerInfo]) -> dict[str, LatencyShown]:
        """Take a reading of the living workers; a queue without texts in the window is left out."""
        known = self._workers
        self._workers = {
            name: known.get(name) or _Worker(info.latencies.bounds) for name, info in told.items()
        }
        bounds = next((info.latencies.bounds for info in told.values() if info.latencies.bounds), ())
        sums: dict[str, list[int]] = {}
        for name, info in told.items():
            if info.latencies.bounds != bounds:
                continue  # another version, whose buckets are not these
            worker = self._workers[name]
            worker.take(info)
            for queue in info.latencies.queues:
                counts = worker.of(queue)
                if min(counts) < 0:  # another worker of the same name
                    self._workers[name] = _Worker(bounds)
                    break
                sums[queue] = [a + b for a, b in zip(sums.get(queue, [0] * len(counts)), counts, strict=True)]
        return {
            queue: LatencyShown(p50=quantile(bounds, counts, 0.5), p95=quantile(bounds, counts, 0.95))
            for queue, counts in sums.items()
            if sum(counts)
        }


def quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float:
    """The value that ``share`` of the counted do not exceed, as Prometheus's ``histogram_quantile`` has it:
    linear within a bucket, and the last bound for what is beyond it."""
    wanted = share * sum(counts)
    lower = 0.0
    for upper, count in zip(bounds, counts, strict=False):
        if count and wanted <= count:
            return lower + (upper - lower) * wanted / count
        wanted -= count
        lower = upper
    return lower
