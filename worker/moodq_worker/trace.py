"""What is noted of a traced text on its way, to be told as spans when it has ended.

Only times that are measured anyway, and only of texts that are traced: to all others it costs one
``is None``. ``labels``, ``replies`` and ``remote`` note here, ``tracing`` makes the spans. Nothing here needs
OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(slots=True, eq=False)
class Pass:
    """A forward pass that texts share; ``traces`` are those of them that are traced. ``span`` is its span's
    context, once there is one."""

    tasks: str
    began: float
    seconds: float
    items: int
    traces: Sequence[Trace]
    span: Any = None


@dataclass(frozen=True, slots=True)
class Stage:
    """A part of a text's time: ``prefill`` (with the pass it was), ``decode`` or ``remote``."""

    name: str
    began: float  # monotonic seconds
    seconds: float
    tasks: str
    shared: Pass | None = None
    tokens: int | None = None


@dataclass(slots=True, eq=False)
class Trace:
    """A text's span, or a job's whose texts share one, and what has been noted for it."""

    span: Any
    stages: list[Stage] = field(default_factory=list)

    def note(self, name: str, began: float, seconds: float, task: str, tokens: int | None = None) -> None:
        """A stage that the text went through by itself."""
        self.stages.append(Stage(name, began, seconds, task, tokens=tokens))


class Traced(Protocol):
    """What passes are noted for: an item."""

    trace: Trace | None


def note_pass(items: Sequence[Traced], tasks: Sequence[str], began: float, seconds: float) -> None:
    """``items`` were in one forward pass."""
    traces = _traces(items)
    if traces:
        named = ",".join(dict.fromkeys(tasks))
        shared = Pass(named, began, seconds, len(items), traces)
        for trace in traces:
            trace.stages.append(Stage("prefill", began, seconds, named, shared))


def _traces(items: Iterable[Traced]) -> list[Trace]:
    """Each once: texts of one job may share theirs."""
    return list(dict.fromkeys([item.trace for item in items if item.trace is not None]))
