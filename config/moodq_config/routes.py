"""Routes: rules of a tasks file that send a message to a person, by what the label tasks say of it.

A rule is parsed here into a tree that can only compare; nothing of it is run. ``task_loading`` reads the
file's ``[[routes]]``, the worker's loop asks ``Routes.of`` when an item's labels are known.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from moodq_config.answers import UNCERTAIN, Answer, ChosenLabel, LabelScores, LabelSet, Score
from moodq_config.task_kinds import ChooseTask, LabelTask, MultilabelTask, ScoreTask, Task

#: Bounds of one rule, and how many a file may have: they are looked at for every item.
MAX_RULE_CHARS = 500
MAX_RULE_DEPTH = 16
MAX_ROUTES = 100

RouteName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<operator>>=|<=|>|<)
    | (?P<bracket>[()])
    | (?P<dot>\.)
    | (?P<number>-?\d+(?:\.\d+)?(?![^\s()]))
    | (?P<quoted>'[^']+'|"[^"]+")
    | (?P<word>[^\s()<>.'"]+)
    )""",
    re.VERBOSE,
)
_GRAMMAR = "task.label > 0.8, task > 0.8, task is label, joined by and, or, and brackets"


@dataclass(frozen=True, slots=True)
class Compare:
    """A probability of ``task`` (its score, without a ``label``) against ``number``."""

    task: str
    label: str | None
    sign: str
    number: float

    def holds(self, found: Mapping[str, Answer]) -> bool:
        value = _value(found.get(self.task), self.label)
        return value is not None and _COMPARE[self.sign](value, self.number)


@dataclass(frozen=True, slots=True)
class Is:
    """``task`` said ``label``."""

    task: str
    label: str

    def holds(self, found: Mapping[str, Answer]) -> bool:
        answer = found.get(self.task)
        if isinstance(answer, LabelSet):
            return self.label in answer.labels
        return isinstance(answer, LabelScores | ChosenLabel) and answer.label == self.label


@dataclass(frozen=True, slots=True)
class Every:
    parts: tuple[Rule, ...]

    def holds(self, found: Mapping[str, Answer]) -> bool:
        return all(part.holds(found) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Some:
    parts: tuple[Rule, ...]

    def holds(self, found: Mapping[str, Answer]) -> bool:
        return any(part.holds(found) for part in self.parts)


Rule = Compare | Is | Every | Some


class Route(BaseModel):
    """``when`` holds, the message goes to ``moodq:route:<route>``. With ``reply`` false the model does not
    answer the customer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    when: str = Field(min_length=1, max_length=MAX_RULE_CHARS)
    route: RouteName
    reply: bool = True

    @field_validator("when")
    @classmethod
    def _read(cls, when: str) -> str:
        parse_rule(when)
        return when


class Routes:
    """The routes of a task set, in order: the first that holds counts."""

    def __init__(self, routes: tuple[Route, ...] = ()) -> None:
        self.routes = routes
        self._rules = [(parse_rule(route.when), route) for route in routes]

    def __bool__(self) -> bool:
        return bool(self.routes)

    def of(self, found: Mapping[str, Answer]) -> Route | None:
        """The route of a message of which the tasks said ``found``. A comparison with a task that was not
        asked does not hold."""
        for rule, route in self._rules:
            if rule.holds(found):
                return route
        return None

    @staticmethod
    def tasks(route: Route) -> tuple[str, ...]:
        """The tasks that the rule of ``route`` names."""
        return tuple(dict.fromkeys(part.task for part in _leaves(parse_rule(route.when))))


def unfit_routes(routes: tuple[Route, ...], tasks: Mapping[str, Task]) -> Iterator[str]:
    """What rules say of tasks and labels that there are not, each message beginning with the field."""
    for number, route in enumerate(routes):
        for part in _leaves(parse_rule(route.when)):
            if said := _unfit(part, tasks):
                yield f"routes.{number}.when: {said}"


def parse_rule(when: str) -> Rule:
    """The rule in ``when``. Raises ``ValueError`` that says where it cannot be read, and what can."""
    return _Parser(when).rule()


class _Parser:
    """One rule, from left to right; ``and`` binds before ``or``."""

    def __init__(self, when: str) -> None:
        self._tokens: list[tuple[str, str, int]] = []
        place = 0
        while when[place:].strip():
            match = _TOKEN.match(when, place)
            if match is None:
                raise _unreadable(when[place:].strip()[:1], place)
            kind = str(match.lastgroup)
            self._tokens.append((kind, match[kind], match.start(kind)))
            place = match.end()
        self._tokens.append(("end", "", len(when)))
        self._depth = 0

    def rule(self) -> Rule:
        found = self._some()
        if self._kind != "end":
            raise self._wrong()
        return found

    def _some(self) -> Rule:
        parts = [self._every()]
        while self._takes("word", "or"):
            parts.append(self._every())
        return parts[0] if len(parts) == 1 else Some(tuple(parts))

    def _every(self) -> Rule:
        parts = [self._part()]
        while self._takes("word", "and"):
            parts.append(self._part())
        return parts[0] if len(parts) == 1 else Every(tuple(parts))

    def _part(self) -> Rule:
        if self._takes("bracket", "("):
            self._depth += 1
            if self._depth > MAX_RULE_DEPTH:
                raise ValueError(f"has more than {MAX_RULE_DEPTH} brackets in each other; write it flatter")
            found = self._some()
            if not self._takes("bracket", ")"):
                raise self._wrong()
            self._depth -= 1
            return found
        task = self._take("word")
        if self._takes("word", "is"):
            return Is(task, self._label())
        label = self._label() if self._takes("dot", ".") else None
        sign = self._take("operator")
        return Compare(task, label, sign, float(self._take("number")))

    def _label(self) -> str:
        return self._take("word") if self._kind == "word" else self._take("quoted")[1:-1]

    @property
    def _kind(self) -> str:
        return self._tokens[0][0]

    def _take(self, kind: str) -> str:
        if self._kind != kind or (kind == "word" and self._tokens[0][1] in ("and", "or", "is")):
            raise self._wrong()
        return self._tokens.pop(0)[1]

    def _takes(self, kind: str, value: str) -> bool:
        if self._tokens[0][:2] != (kind, value):
            return False
        self._tokens.pop(0)
        return True

    def _wrong(self) -> ValueError:
        _, value, place = self._tokens[0]
        return _unreadable(value, place)


def _unreadable(value: str, place: int) -> ValueError:
    shown = repr(value[:40]) if value else "its end"
    return ValueError(f"cannot be read at {shown}, character {place + 1}; what can: {_GRAMMAR}")


def _leaves(rule: Rule) -> Iterator[Compare | Is]:
    if isinstance(rule, Compare | Is):
        yield rule
    else:
        for part in rule.parts:
            yield from _leaves(part)


def _unfit(part: Compare | Is, tasks: Mapping[str, Task]) -> str | None:
    task: Any = tasks.get(part.task)
    if not isinstance(task, LabelTask | MultilabelTask | ChooseTask | ScoreTask):
        known = ", ".join(
            name
            for name, one in tasks.items()
            if isinstance(one, LabelTask | MultilabelTask | ChooseTask | ScoreTask)
        )
        return f"{part.task!r} is not a task that judges a text; these are: {known}"
    if isinstance(task, ScoreTask):
        if isinstance(part, Is) or part.label is not None:
            return f"task {part.task!r} gives a number; write {part.task} > 0.5"
        return None
    if isinstance(part, Compare):
        if part.label is None:
            return f"task {part.task!r} gives labels; write {part.task}.label > 0.5 or {part.task} is label"
        if not 0.0 <= part.number <= 1.0:
            return f"{part.number:g} is no probability; write a number from 0 to 1"
    if isinstance(task, ChooseTask):
        return None  # its labels come with the request
    if part.label not in task.labels and not (isinstance(part, Is) and part.label == UNCERTAIN):
        return f"{part.label!r} is not a label of {part.task!r}; these are: {', '.join(task.labels)}"
    return None


def _value(answer: Answer | None, label: str | None) -> float | None:
    """The number that a comparison is about; None when there is none."""
    match answer:
        case LabelScores() | LabelSet():
            return answer.scores.get(label) if label is not None else None
        case ChosenLabel():
            return float(answer.label == label)  # chosen elsewhere, without saying how surely
        case Score():
            return answer.score if label is None else None
    return None
