"""A task as TOML, to be read back by ``load_tasks`` as the same task: in the form of the shipped file, short
tables on one line, an example a line."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, time
from typing import Any

from moodq_config.task_kinds import Task


def task_toml(task: Task, comment: Iterable[str] = ()) -> str:
    """What differs from the defaults of the task's kind. ``comment`` stands above it, a line each."""
    table = task.model_dump(by_alias=True, exclude_defaults=True, exclude={"name"})
    lines = [f"# {line}".rstrip() for line in comment]
    lines += _table(("tasks", task.name), table)
    return "\n".join(lines).strip("\n") + "\n"


def _table(path: Sequence[str], table: Mapping[str, Any]) -> Iterator[str]:
    """Values first, then the tables that are too large for a line."""
    large = {name: value for name, value in table.items() if _is_large(value)}
    if len(large) < len(table) or not table:
        yield ""
        yield f"[{'.'.join(map(_key, path))}]"
    for name, value in table.items():
        if name not in large:
            yield f"{_key(name)} = {_value(value)}"
    for name, value in large.items():
        yield from _table((*path, name), value)


def _is_large(value: Any) -> bool:
    """A table with tables or lists of tables in it."""
    return isinstance(value, Mapping) and any(
        isinstance(child, Mapping) or _is_list_of_tables(child) for child in value.values()
    )


def _is_list_of_tables(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value)


def _value(value: Any) -> str:
    if _is_list_of_tables(value):
        return "\n".join(["[", *(f"  {_inline(one)}," for one in value), "]"])
    return _inline(value)


def _inline(value: Any) -> str:
    match value:
        case str():
            # A JSON string is a TOML string, but for one control character that JSON leaves as it is.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case bool():
            return "true" if value else "false"
        case float() if not math.isfinite(value):
            return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
        case int() | float():
            return repr(value)
        case date() | time():
            return value.isoformat()
        case Mapping():
            fields = ", ".join(f"{_key(name)} = {_inline(one)}" for name, one in value.items())
            return f"{{ {fields} }}" if fields else "{}"
        case list() | tuple():
            return f"[{', '.join(map(_inline, value))}]"
    raise TypeError(f"{type(value).__name__} is no value of TOML")


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else _inline(name)
