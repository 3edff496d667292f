"""From TOML files to checked tasks: every error names file, line, field and fix."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from pydantic import ValidationError

from moodq_config.errors import ConfigError, ErrorCode
from moodq_config.task_kinds import KINDS, Task
from moodq_config.task_lines import line_of

#: What pydantic says in words that tell a person nothing.
_PLAIN = {
    "missing": "is missing; add it",
    "extra_forbidden": "is not a field of this kind of task; take it out, or correct its name",
}
_FIELD = re.compile(r"tasks\.[\w.]+")


def parse_tasks(text: str, source: str) -> dict[str, Task]:
    """The tasks of one file, by name. Raises ``ConfigError`` (tasks_invalid)."""
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers and nesting beyond what Python reads
        raise ConfigError(f"{source}: {error}", code=ErrorCode.TASKS_INVALID) from None
    tables = document.get("tasks")
    if not isinstance(tables, dict) or set(document) != {"tasks"}:
        raise ConfigError(
            f"{source}: the file must hold only [tasks.<name>] tables", code=ErrorCode.TASKS_INVALID
        )
    try:
        return {name: _parse_task(name, table) for name, table in tables.items()}
    except ConfigError as error:
        raise located(error, text, source) from None


def located(error: ConfigError, text: str, source: str) -> ConfigError:
    """``error`` with the file before it, and the line of the field that its message begins with."""
    field = _FIELD.match(error.message)
    line = line_of(text, field[0].rstrip(".").split(".")) if field else None
    where = source if line is None else f"{source}, line {line}"
    return ConfigError(f"{where}: {error.message}", code=error.code)


def _parse_task(name: str, table: Any) -> Task:
    where = f"tasks.{_shown(name)}"
    if isinstance(table, dict) and "name" in table:
        raise _invalid(f"{where}.name: a task is named by its table; take the field out")
    kind = table.get("kind") if isinstance(table, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise _invalid(f"{where}.kind must be one of {', '.join(KINDS)}")
    try:
        return KINDS[kind].model_validate({**table, "name": name})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        if first["type"] == "value_error" and not first["loc"]:
            # The kinds' own checks name the field within the task.
            raise _invalid(f"{where}.{first['msg'].removeprefix('Value error, ')}") from None
        path = () if first["loc"] == ("name",) else first["loc"]
        field = ".".join([where, *(_shown(str(part)) for part in path)])
        raise _invalid(f"{field}: {_PLAIN.get(first['type'], first['msg'])}") from None


def _invalid(message: str) -> ConfigError:
    return ConfigError(message, code=ErrorCode.TASKS_INVALID)


def _shown(name: str) -> str:
    """A key of the file, fit for a message."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in name[:80])
