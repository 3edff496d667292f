"""From TOML files to checked tasks and routes: every error names file, line, field and fix.

``parse_file`` ends at the first fault, as a worker's start does; ``read_tasks`` gives all of them, for
``moodq tasks check``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from moodq_config.errors import ConfigError, ErrorCode
from moodq_config.routes import MAX_ROUTES, Route
from moodq_config.task_kinds import KINDS, Task
from moodq_config.task_lines import line_of

#: What pydantic says in words that tell a person nothing.
_PLAIN = {
    "missing": "is missing; add it",
    "extra_forbidden": "is not a field of this kind of task; take it out, or correct its name",
}
_PLAIN_OF_ROUTES = {**_PLAIN, "extra_forbidden": "is not a field of a route; these are: when, route, reply"}
_FIELD = re.compile(r"(?:tasks|routes)\.[\w.]+")
#: What tomllib puts behind what it says of a file that is no TOML.
_TOML_PLACE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a tasks file. ``message`` begins with ``field``, which is empty when it is about the
    whole file, and says what to do; ``line`` counts from 1."""

    field: str
    line: int | None
    message: str

    def told(self, source: str) -> str:
        """With the file before it, on one line."""
        where = source if self.line is None else f"{source}, line {self.line}"
        return f"{where}: {self.message}"


@dataclass(frozen=True, slots=True)
class FileContent:
    """What is in order in one file: tasks by name, routes in their order; and all that is wrong."""

    tasks: dict[str, Task]
    routes: tuple[Route, ...]
    faults: list[Fault]


def parse_file(text: str, source: str) -> FileContent:
    """The tasks and routes of one file. Raises ``ConfigError`` (tasks_invalid)."""
    found = read_file(text)
    if found.faults:
        raise ConfigError(found.faults[0].told(source), code=ErrorCode.TASKS_INVALID)
    return found


def parse_tasks(text: str, source: str) -> dict[str, Task]:
    """The tasks of one file, by name. Raises ``ConfigError`` (tasks_invalid)."""
    return parse_file(text, source).tasks


def read_file(text: str) -> FileContent:
    """What is in order in one file, and all that is wrong with the rest."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers and nesting beyond what Python reads
        said = str(error)
        place = _TOML_PLACE.search(said)
        return FileContent({}, (), [Fault("", int(place[1]) if place and place[1] else None, said)])
    tables, rules = document.get("tasks", {}), document.get("routes", [])
    lists = isinstance(tables, dict) and isinstance(rules, list) and len(rules) <= MAX_ROUTES
    if not lists or not document or set(document) - {"tasks", "routes"}:
        only = f"the file must hold only [tasks.<name>] tables, and up to {MAX_ROUTES} [[routes]]"
        return FileContent({}, (), [Fault("", None, only)])
    tasks: dict[str, Task] = {}
    messages: list[str] = []
    for name, table in tables.items():
        try:
            tasks[name] = _parse_task(name, table)
        except _Wrong as wrong:
            messages += wrong.messages
    routes: list[Route] = []
    for number, table in enumerate(rules):
        try:
            routes.append(Route.model_validate(table))
        except ValidationError as error:
            messages += _told(error, f"routes.{number}", _PLAIN_OF_ROUTES)
    return FileContent(tasks, tuple(routes), located(messages, text))


def located(messages: Iterable[str], text: str) -> list[Fault]:
    """Each message with the line in ``text`` of the field that it begins with."""
    faults = []
    for message in messages:
        found = _FIELD.match(message)
        field = found[0].rstrip(".") if found else ""
        faults.append(Fault(field, line_of(text, field.split(".")) if field else None, message))
    return faults


class _Wrong(Exception):
    """All that is wrong with one task."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__()
        self.messages = messages


def _parse_task(name: str, table: Any) -> Task:
    where = f"tasks.{_shown(name)}"
    if isinstance(table, dict) and "name" in table:
        raise _Wrong([f"{where}.name: a task is named by its table; take the field out"])
    kind = table.get("kind") if isinstance(table, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise _Wrong([f"{where}.kind must be one of {', '.join(KINDS)}"])
    try:
        return KINDS[kind].model_validate({**table, "name": name})
    except ValidationError as error:
        raise _Wrong(list(_told(error, where, _PLAIN))) from None


def _told(error: ValidationError, where: str, plain: dict[str, str]) -> Iterator[str]:
    for one in error.errors(include_url=False, include_input=False):
        if one["type"] == "value_error" and not one["loc"]:
            # The kinds' own checks name the field within the task, a line each.
            for said in one["msg"].removeprefix("Value error, ").split("\n"):
                yield f"{where}.{said}"
        else:
            path = () if one["loc"] == ("name",) else one["loc"]
            field = ".".join([where, *(_shown(str(part)) for part in path)])
            yield f"{field}: {plain.get(one['type'], one['msg'].removeprefix('Value error, '))}"


def _shown(name: str) -> str:
    """A key of the file, fit for a message."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in name[:80])
