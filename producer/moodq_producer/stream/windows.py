"""Label shares over windows of time, by when results came. Pure: the caller tells the time.

A tumbling window begins anew when it is full; a sliding one is told every so often, over its whole span.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from moodq_config.answers import Answer, LabelScores, LabelSet
from moodq_config.errors import ConfigError
from moodq_producer.stream.records import duration_s

#: Parts a sliding window is counted in: what leaves it is a part of this size.
PARTS = 60


@dataclass(slots=True)
class Shares:
    """``items`` by task, and ``labels`` by task and label; of a multilabel task each label that holds."""

    items: Counter[str] = field(default_factory=Counter)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, results: Mapping[str, Answer]) -> None:
        for task, found in results.items():
            if isinstance(found, LabelScores):
                held: Iterable[str] = (found.label,)
            elif isinstance(found, LabelSet):
                held = found.labels
            else:
                continue
            self.items[task] += 1
            for label in held:
                self.labels[task, label] += 1

    def merge(self, other: Shares) -> None:
        self.items.update(other.items)
        self.labels.update(other.labels)

    def of(self, task: str, label: str) -> float:
        """From 0 to 1; 0 without items."""
        return self.labels[task, label] / self.items[task] if self.items[task] else 0.0

    def told(self) -> str:
        """By task, the most frequent label first."""
        parts = []
        for task, count in self.items.items():
            mine = sorted(((n, label) for (of, label), n in self.labels.items() if of == task), reverse=True)
            shares = ", ".join(f"{label} {n / count:.0%}" for n, label in mine)
            parts.append(f"{count:,} {task}: {shares}")
        return "; ".join(parts) or "no items"


class Sliding:
    """The last ``span_s`` seconds, to within a sixtieth of them."""

    def __init__(self, span_s: float) -> None:
        self._span_s = span_s
        self._part_s = span_s / PARTS
        self._parts: deque[tuple[float, Shares]] = deque()

    def add(self, now: float, results: Mapping[str, Answer]) -> None:
        if not self._parts or now - self._parts[-1][0] >= self._part_s:
            self._parts.append((now, Shares()))
        self._parts[-1][1].add(results)

    def shares(self, now: float) -> Shares:
        while self._parts and now - self._parts[0][0] > self._span_s:
            self._parts.popleft()
        whole = Shares()
        for _, part in self._parts:
            whole.merge(part)
        return whole


@dataclass(frozen=True, slots=True)
class Window:
    """``text`` as it was asked for; told every ``every_s``, over the ``span_s`` before."""

    text: str
    span_s: float
    every_s: float


def window(text: str) -> Window:
    """``5m`` is tumbling, ``5m/30s`` sliding. Raises ``ConfigError``."""
    span, _, every = text.partition("/")
    span_s = duration_s(span)
    every_s = duration_s(every) if every else span_s
    if every_s > span_s:
        raise ConfigError(f"window {text!r} would be told less often than it is long; write it as LONG/OFTEN")
    return Window(text, span_s, every_s)


class Watch:
    """One window over what comes out."""

    def __init__(self, window: Window, now: float) -> None:
        self.window = window
        self._sliding = Sliding(window.span_s) if window.every_s < window.span_s else None
        self._shares = Shares()
        self._due = now + window.every_s

    def add(self, now: float, results: Mapping[str, Answer]) -> None:
        if self._sliding is not None:
            self._sliding.add(now, results)
        else:
            self._shares.add(results)

    def step(self, now: float) -> Shares | None:
        """The shares, when it is time to tell them."""
        if now < self._due:
            return None
        self._due += self.window.every_s * max(1, int((now - self._due) // self.window.every_s) + 1)
        if self._sliding is not None:
            return self._sliding.shares(now)
        told, self._shares = self._shares, Shares()
        return told
