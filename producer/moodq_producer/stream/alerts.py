"""Alerts on label shares: ``negative>0.4 over 5m``. Pure: the caller tells the time.

An alert fires once when its share passes the threshold, and is cleared once when the share is back well
within it, so that a share that wavers about the threshold does not ring all day.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from moodq_config.answers import Answer
from moodq_config.errors import ConfigError
from moodq_config.task_kinds import ChooseTask, LabelTask, MultilabelTask
from moodq_config.tasks import TaskSet
from moodq_producer.stream.records import duration_s
from moodq_producer.stream.windows import Sliding

#: Without ``clear``: the part of the threshold below which ``>`` is cleared; ``<`` is above its inverse.
CLEAR_AT = 0.8
#: Without ``min``: items the window must hold before the alert says anything.
MIN_ITEMS = 20

_SPEC = re.compile(
    r"(?:(?P<task>[a-z][a-z0-9_]*)\.)?(?P<label>[^<>.\s][^<>]*?)\s*(?P<sign>[<>])\s*(?P<threshold>[\d.]+)"
    r"\s+over\s+(?P<span>\S+)(?P<rest>.*)"
)
_MORE = re.compile(r"\s+(clear\s+(?P<clear>[\d.]+)|min\s+(?P<min>\d+))")
FORM = "[TASK.]LABEL>SHARE over DURATION [clear SHARE] [min ITEMS], e.g. 'negative>0.4 over 5m'"


@dataclass(frozen=True, slots=True)
class Rule:
    """``text`` as it was written. ``above``: fires over the threshold, and not under it."""

    text: str
    task: str
    label: str
    above: bool
    threshold: float
    clear: float
    span_s: float
    min_items: int


@dataclass(frozen=True, slots=True)
class AlertEvent:
    """What is posted. ``share`` of ``items`` had the label; ``window_s`` seconds were looked at."""

    alert: str
    state: Literal["firing", "cleared"]
    task: str
    label: str
    share: float
    threshold: float
    items: int
    window_s: float

    @property
    def text(self) -> str:
        return f"{self.state}: {self.alert} ({self.label} {self.share:.1%} of {self.items:,} items)"

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "text": self.text}


def rule(text: str, tasks: TaskSet, asked: Sequence[str]) -> Rule:
    """Read an alert; without a task it is on the first of ``asked``. Raises ``ConfigError``."""
    found = _SPEC.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"alert {text!r} is not understood; write {FORM}")
    name, label = found["task"] or asked[0], found["label"]
    _check_label(text, tasks, asked, name, label)
    above, threshold = found["sign"] == ">", _share(text, found["threshold"])
    clear = threshold * CLEAR_AT if above else min(1.0, threshold / CLEAR_AT)
    min_items, rest = MIN_ITEMS, found["rest"]
    while rest.strip():
        more = _MORE.match(rest)
        if more is None:
            raise ConfigError(f"alert {text!r}: {rest.strip()!r} is not understood; write {FORM}")
        if more["clear"] is not None:
            clear = _share(text, more["clear"])
        else:
            min_items = int(more["min"])
        rest = rest[more.end() :]
    if (clear > threshold) if above else (clear < threshold):
        side = "below" if above else "above"
        raise ConfigError(f"alert {text!r}: clear {clear:g} must be {side} the threshold {threshold:g}")
    try:
        span_s = duration_s(found["span"])
    except ConfigError as error:
        raise ConfigError(f"alert {text!r}: {error.message}") from None
    return Rule(text.strip(), name, label, above, threshold, clear, span_s, max(1, min_items))


class Alert:
    """One rule over what comes out."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.firing = False
        self._window = Sliding(rule.span_s)

    def add(self, now: float, results: Mapping[str, Answer]) -> None:
        if self.rule.task in results:
            self._window.add(now, results)

    def step(self, now: float) -> AlertEvent | None:
        """What has changed. With too few items to say anything nothing does; with none left at all, a firing
        alert is cleared."""
        rule, shares = self.rule, self._window.shares(now)
        items, share = shares.items[rule.task], shares.of(rule.task, rule.label)
        if self.firing:
            within = share < rule.clear if rule.above else share > rule.clear
            if items and (items < rule.min_items or not within):
                return None
        else:
            beyond = share > rule.threshold if rule.above else share < rule.threshold
            if items < rule.min_items or not beyond:
                return None
        self.firing = not self.firing
        return AlertEvent(
            rule.text, "firing" if self.firing else "cleared", rule.task, rule.label, round(share, 4),
            rule.threshold, items, rule.span_s,
        )  # fmt: skip


def _check_label(text: str, tasks: TaskSet, asked: Sequence[str], name: str, label: str) -> None:
    if name not in asked:
        raise ConfigError(f"alert {text!r}: task {name!r} is not asked for; --tasks has {', '.join(asked)}")
    task = tasks.get(name)
    if not isinstance(task, LabelTask | MultilabelTask | ChooseTask):
        raise ConfigError(f"alert {text!r}: task {name!r} gives no labels to take shares of")
    if not isinstance(task, ChooseTask) and label not in task.labels:
        raise ConfigError(f"alert {text!r}: {name} has no label {label!r}, but {', '.join(task.labels)}")


def _share(text: str, number: str) -> float:
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise ConfigError(f"alert {text!r}: {number!r} is no share; accepted: 0 to 1")
    return share
