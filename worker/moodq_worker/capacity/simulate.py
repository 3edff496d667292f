"""How long texts take at one worker, by simulating its loop on measured costs.

The worker's turn as ``loop`` takes it: one batch of labels, then some replies join or all that run take a
step. Texts come by chance, independently of one another (Poisson). Pure: no clock, and a seed for chance.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from moodq_worker.capacity.costs import PassCost, WriteCost
from moodq_worker.replies import JOINS_PER_STEP

#: Seconds between sending a text and its result that are not the engine's: queue, claim, checks, writing. Of
#: `make bench`: the time of one sentiment on an idle worker, less its forward pass.
AROUND_S = 0.007
#: Seconds of the worker's Python for each job: what one worker with an empty engine takes (`make bench`).
JOB_S = 1 / 3_900


@dataclass(frozen=True, slots=True)
class TextCost:
    """What one text asks of the engine: passes in order, then replies. ``tokens`` are the text's own."""

    tokens: float
    passes: tuple[PassCost, ...]
    writes: tuple[WriteCost, ...]
    batch_tokens: int
    max_replies: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """Latencies are in seconds, from sending to result. ``steady``: they do not grow for as long as texts
    come. ``busy``: part of the time that the engine worked."""

    p50_s: float
    p95_s: float
    busy: float
    items_per_s: float
    steady: bool


@dataclass(slots=True)
class _Text:
    came: float
    stage: int = 0  # passes, then writes
    left: int = 0  # tokens still to be written


@dataclass
class _Worker:
    cost: TextCost
    chance: random.Random
    labels: list[deque[_Text]] = field(default_factory=list)
    joining: deque[_Text] = field(default_factory=deque)
    running: list[_Text] = field(default_factory=list)
    joins: int = 0
    now: float = 0.0
    spent: float = 0.0
    ended: list[tuple[float, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.labels = [deque() for _ in self.cost.passes]

    @property
    def idle(self) -> bool:
        return not (any(self.labels) or self.joining or self.running)

    def turn(self) -> None:
        if any(self.labels):
            self._label(min((some for some in self.labels if some), key=lambda some: some[0].came))
        if self.joins < JOINS_PER_STEP and self._join():
            self.joins += 1
        else:
            self.joins = 0
            self._step()

    def take(self, text: _Text) -> None:
        """A text goes on to its next stage."""
        passes = len(self.cost.passes)
        if text.stage < passes:
            self.labels[text.stage].append(text)
        elif text.stage < passes + len(self.cost.writes):
            self.joining.append(text)
        else:
            self.ended.append((text.came, self.now))

    def _spend(self, seconds: float) -> None:
        self.now += seconds
        self.spent += seconds

    def _label(self, waiting: deque[_Text]) -> None:
        cost = self.cost.passes[waiting[0].stage]
        batch = [waiting.popleft() for _ in range(min(len(waiting), self._fit(cost)))]
        self._spend(cost.seconds(len(batch), self.cost.tokens) + JOB_S * len(batch))
        self._on(batch)

    def _join(self) -> bool:
        room = self.cost.max_replies - len(self.running)
        if not self.joining or room <= 0:
            return False
        write = self._write(self.joining[0])
        batch = []
        for _ in range(min(room, self._fit(write.join), len(self.joining))):
            text = self.joining.popleft()
            text.left = self.chance.choice(self._write(text).lengths)
            batch.append(text)
        self._spend(write.join.seconds(len(batch), self.cost.tokens))
        self.running += batch
        return True

    def _step(self) -> None:
        if not self.running:
            return
        writes = [self._write(text) for text in self.running]
        self._spend(max(write.step_s for write in writes) + sum(write.row_s for write in writes))
        for text in self.running:
            text.left -= 1
        ended = [text for text in self.running if text.left <= 0]
        self.running = [text for text in self.running if text.left > 0]
        self._on(ended)

    def _on(self, texts: Sequence[_Text]) -> None:
        for text in texts:
            text.stage += 1
            self.take(text)

    def _write(self, text: _Text) -> WriteCost:
        return self.cost.writes[text.stage - len(self.cost.passes)]

    def _fit(self, cost: PassCost) -> int:
        return max(1, int(self.cost.batch_tokens / (self.cost.tokens + cost.suffix_tokens)))


def simulate(cost: TextCost, per_s: float, texts: int, seed: int = 1) -> Outcome:
    """``texts`` of them at ``per_s`` a second, to the end of the last."""
    chance = random.Random(seed)  # noqa: S311 - chance of a simulation
    gaps = (chance.expovariate(per_s) for _ in range(texts))
    worker = _run(cost, chance, accumulate(gaps))
    tenth = len(worker.ended) // 10
    counted = sorted(worker.ended)[tenth:]
    waits = [ended - came for came, ended in counted]
    middle = len(waits) // 2
    early, late = _mean(waits[:middle]), _mean(waits[middle:])
    last_came = counted[-1][0]
    ranked = sorted(waits)
    return Outcome(
        p50_s=ranked[len(ranked) // 2] + AROUND_S,
        p95_s=ranked[int(len(ranked) * 0.95)] + AROUND_S,
        busy=worker.spent / worker.now,
        items_per_s=len(worker.ended) / worker.now,
        # In a queue that grows, the mean of the second half is three times that of the first.
        steady=late < 2 * early and worker.now - last_came < 0.5 * last_came,
    )


def most_per_s(cost: TextCost, texts: int) -> float:
    """Texts a second of a worker that always has enough: from a tenth to nine tenths of ``texts``."""
    chance = random.Random(1)  # noqa: S311 - chance of a simulation
    worker = _run(cost, chance, iter([0.0] * texts))
    ends = [ended for _, ended in worker.ended]
    first, last = texts // 10, texts * 9 // 10
    return (last - first) / (ends[last] - ends[first])


def _run(cost: TextCost, chance: random.Random, arrivals: Iterator[float]) -> _Worker:
    worker = _Worker(cost, chance)
    coming = next(arrivals, None)
    while coming is not None or not worker.idle:
        if worker.idle and coming is not None:
            worker.now = max(worker.now, coming)
        while coming is not None and coming <= worker.now:
            worker.take(_Text(coming))
            coming = next(arrivals, None)
        worker.turn()
    return worker


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
