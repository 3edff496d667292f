"""Which texts run together next. Pure: no clock, no Redis, no model.

A batch holds texts of one group (same tasks and language, so the same cached prefix), of one queue, and of
similar length: at most ``budget`` tokens in all, and, since the attention pads its rows to the longest, at
most ``PADDED`` times as many with the padding. It is built around the oldest
text of the chosen queue, or around the oldest of those that go first; every few batches the oldest of all has
its turn, so nothing starves inside a queue. Whose turn it is between queues is ``fairness``' business.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Generic, TypeVar

from moodq_worker.fairness import FairShare

T = TypeVar("T")

#: One batch in so many begins with the oldest text even when texts that go first wait.
FIRSTS_OF = 4
#: Rows x longest row, over the budget: what the padding inside the attention may come to.
PADDED = 1.25


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """One text waiting for one task. ``tokens`` are its new tokens, ``key`` is unique while it waits.

    ``first`` puts it before those of its queue that are not: a text that ends with this batch before one
    whose reply is still to be written.
    """

    key: int
    group: Hashable
    tokens: int
    item: T
    first: bool = False


@dataclass
class _Lane(Generic[T]):
    """The waiting texts of one queue: by arrival, and per group by length."""

    by_arrival: OrderedDict[int, Entry[T]] = field(default_factory=OrderedDict)
    firsts: OrderedDict[int, Entry[T]] = field(default_factory=OrderedDict)
    by_length: dict[Hashable, list[tuple[int, int]]] = field(default_factory=dict)

    def add(self, entry: Entry[T]) -> None:
        self.by_arrival[entry.key] = entry
        if entry.first:
            self.firsts[entry.key] = entry
        insort(self.by_length.setdefault(entry.group, []), (entry.tokens, entry.key))

    def remove(self, key: int) -> Entry[T] | None:
        entry = self.by_arrival.pop(key, None)
        self.firsts.pop(key, None)
        if entry is not None:
            group = self.by_length[entry.group]
            del group[bisect_left(group, (entry.tokens, entry.key))]
            if not group:
                del self.by_length[entry.group]
        return entry


class Batcher(Generic[T]):
    """Waiting texts of every queue, first queue most urgent."""

    def __init__(
        self,
        queues: Sequence[str],
        *,
        budget: int,
        share: float,
        weights: Mapping[str, float] = MappingProxyType({}),
    ) -> None:
        self._lanes: dict[str, _Lane[T]] = {queue: _Lane() for queue in queues}
        self._first = self._lanes[queues[0]]
        self._budget = budget
        self._turns = FairShare(queues, share=share, weights=weights)
        self._batches = 0

    def __len__(self) -> int:
        return sum(len(lane.by_arrival) for lane in self._lanes.values())

    @property
    def has_first(self) -> bool:
        """Whether a text that goes first waits in the first queue."""
        return bool(self._first.firsts)

    def add(self, queue: str, entry: Entry[T]) -> None:
        self._lanes[queue].add(entry)

    def remove(self, key: int) -> bool:
        """Take a text out; False when it is not waiting."""
        return any(lane.remove(key) is not None for lane in self._lanes.values())

    def next_batch(self) -> list[Entry[T]]:
        """The next batch, taken out of the waiting ones; empty when nothing waits."""
        lane = self._choose_lane()
        if lane is None:
            return []
        self._batches += 1
        # The oldest of all has its turn too, however many that go first keep coming.
        return self._batch_of(lane, (self._batches % FIRSTS_OF and lane.firsts) or lane.by_arrival)

    def first_batch(self) -> list[Entry[T]]:
        """A batch around the oldest text that goes first in the first queue; empty when there is none."""
        return self._batch_of(self._first, self._first.firsts) if self._first.firsts else []

    def _batch_of(self, lane: _Lane[T], waiting: OrderedDict[int, Entry[T]]) -> list[Entry[T]]:
        oldest = next(iter(waiting.values()))
        keys = self._window(lane.by_length[oldest.group], (oldest.tokens, oldest.key), self._budget)
        return [entry for key in keys if (entry := lane.remove(key)) is not None]

    def _choose_lane(self) -> _Lane[T] | None:
        busy = [queue for queue, lane in self._lanes.items() if lane.by_arrival]
        if len(busy) < 2:
            return self._lanes[busy[0]] if busy else None
        return self._lanes[self._turns.choose(busy)]

    def _window(self, group: list[tuple[int, int]], oldest: tuple[int, int], budget: int) -> list[int]:
        """Keys around ``oldest`` in order of length, widened to the nearer side while the budget holds.

        The oldest is in it even when it alone is over the budget.
        """
        low = high = bisect_left(group, oldest)
        total = longest = oldest[0]

        def fits(tokens: int) -> bool:
            padded = (high - low + 2) * max(longest, tokens)
            return total + tokens <= budget and padded <= PADDED * budget

        while True:
            below = group[low - 1] if low > 0 and fits(group[low - 1][0]) else None
            above = group[high + 1] if high + 1 < len(group) and fits(group[high + 1][0]) else None
            if below is None and above is None:
                return [key for _, key in group[low : high + 1]]
            if above is None or (below is not None and longest - below[0] <= above[0] - longest):
                low -= 1
                total += below[0]  # type: ignore[index]
            else:
                high += 1
                longest = above[0]
                total += longest
