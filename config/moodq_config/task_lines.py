"""Where in a TOML file a field begins: ``tomllib`` reads values and forgets their places.

The longest beginning of the file that reads as TOML and lacks the field ends right before it. So nothing has
to be known here about how TOML is written.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from itertools import chain
from typing import Any


def line_of(text: str, path: Sequence[str]) -> int | None:
    """The line, from 1 on, on which the field at ``path`` begins; of a field that is missing, its table's.
    List entries are named by their number. None when not even a part of ``path`` is in ``text``."""
    lines = text.split("\n")
    while path and not _has(_read(lines), path):
        path = path[:-1]
    if not path:
        return None
    without, with_it = 0, len(lines)
    while with_it - without > 1:
        middle = (without + with_it) // 2
        found = _nearest(lines, middle, without, with_it)
        if found is None:
            break
        if _has(_read(lines[:found]), path):
            with_it = found
        else:
            without = found
    begin = without
    while begin + 1 < with_it and not _says_something(lines[begin]):
        begin += 1
    return begin + 1


def _nearest(lines: Sequence[str], middle: int, above: int, below: int) -> int | None:
    """The number of lines nearest to ``middle``, between ``above`` and ``below``, that read as TOML."""
    for count in chain(range(middle, above, -1), range(middle + 1, below)):
        if _read(lines[:count]) is not None:
            return count
    return None


def _read(lines: Sequence[str]) -> dict[str, Any] | None:
    try:
        return tomllib.loads("\n".join((*lines, "")))
    except (ValueError, RecursionError):
        return None


def _has(value: Any, path: Sequence[str]) -> bool:
    for part in path:
        if isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict) and part in value:
            value = value[part]
        else:
            return False
    return True


def _says_something(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")
