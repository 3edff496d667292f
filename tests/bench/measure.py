"""What one run of a row gives, and how rounds become one figure: always the median."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .texts import Labelled

#: How many times as many texts rows take that are measured for their throughput.
THROUGHPUT_TIMES = 5


@dataclass(frozen=True, slots=True)
class Outcome:
    """One run over one slice of texts. ``labels`` holds None where no label could be read."""

    wall_s: float
    latencies_s: list[float]
    labels: list[str | None]
    #: False where labels mean nothing and only the speed counts.
    scored: bool = True


class Peer(Protocol):
    """One way to label texts. The bench runs every peer on the same slice, round by round.

    ``texts_times``: a way that is measured for its throughput gets a slice so many times as long, so that its
    first and last batches weigh as little as they do in steady work.
    """

    @property
    def name(self) -> str: ...

    @property
    def texts_times(self) -> int: ...

    def run(self, texts: Sequence[Labelled]) -> Outcome: ...


@dataclass(slots=True)
class Row:
    """A peer's figures over all rounds."""

    name: str
    items_per_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)
    #: language → one bool per text
    hits: dict[str, list[bool]] = field(default_factory=dict)

    def add(self, texts: Sequence[Labelled], outcome: Outcome) -> None:
        if len(outcome.labels) != len(texts):
            raise RuntimeError(f"{self.name} gave {len(outcome.labels)} labels for {len(texts)} texts")
        self.items_per_s.append(len(texts) / outcome.wall_s)
        self.latencies_s += outcome.latencies_s
        for text, label in zip(texts, outcome.labels, strict=True):
            if not outcome.scored:
                break
            self.hits.setdefault(text.lang, []).append(label == text.label)

    @property
    def speed(self) -> float:
        """Items per second, the median of the rounds."""
        return statistics.median(self.items_per_s)

    @property
    def spread(self) -> float:
        """The fastest round over the slowest; far from 1 when other work got in the way of one."""
        return max(self.items_per_s) / min(self.items_per_s)

    def percentile_s(self, percent: int) -> float:
        """Latency in seconds below which ``percent`` of all items came back (nearest rank)."""
        ranked = sorted(self.latencies_s) or [float("nan")]
        return ranked[min(len(ranked) - 1, round(percent / 100 * len(ranked)))]

    def accuracy(self, lang: str | None = None) -> float | None:
        hits = [hit for name, some in self.hits.items() if lang in (None, name) for hit in some]
        return sum(hits) / len(hits) if hits else None

    def as_json(self, floor: float) -> dict[str, Any]:
        return {
            "name": self.name,
            "items_per_s": round(self.speed, 3),
            "items_per_s_rounds": [round(speed, 3) for speed in self.items_per_s],
            "spread": round(self.spread, 3),
            "p50_s": round(self.percentile_s(50), 5) if self.latencies_s else None,
            "p95_s": round(self.percentile_s(95), 5) if self.latencies_s else None,
            "accuracy": _rounded(self.accuracy()),
            **{f"accuracy_{lang}": _rounded(self.accuracy(lang)) for lang in sorted(self.hits)},
            "items": sum(len(some) for some in self.hits.values()),
            "of_floor": round(self.speed / floor, 4),
        }


def ratio(over: Row, under: Row) -> float:
    """How many times faster, round by round on the same texts; the median of the rounds."""
    pairs = zip(over.items_per_s, under.items_per_s, strict=True)
    return round(statistics.median(a / b for a, b in pairs), 3)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
