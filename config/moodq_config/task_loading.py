"""From TOML files to checked tasks: every error names file, field and fix."""

from __future__ import annotations

import tomllib
from typing import Any

from pydantic import ValidationError

from moodq_config.errors import ConfigError, ErrorCode
from moodq_config.task_kinds import KINDS, Task


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
    return {name: _parse_task(name, table, source) for name, table in tables.items()}


def _parse_task(name: str, table: Any, source: str) -> Task:
    if isinstance(table, dict) and "name" in table:
        raise ConfigError(
            f"{source}: tasks.{_shown(name)}.name: a task is named by its table; take the field out",
            code=ErrorCode.TASKS_INVALID,
        )
    kind = table.get("kind") if isinstance(table, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(
            f"{source}: tasks.{_shown(name)}.kind must be one of {', '.join(KINDS)}",
            code=ErrorCode.TASKS_INVALID,
        )
    try:
        return KINDS[kind].model_validate({**table, "name": name})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ("tasks", name) if first["loc"] == ("name",) else ("tasks", name, *first["loc"])
        where = ".".join(_shown(str(part)) for part in path)
        raise ConfigError(f"{source}: {where}: {first['msg']}", code=ErrorCode.TASKS_INVALID) from None


def _shown(name: str) -> str:
    """A key of the file, fit for a message."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in name[:80])
