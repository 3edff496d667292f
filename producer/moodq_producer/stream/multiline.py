"""Lines joined to records, e.g. a stack trace: a line that matches the pattern begins one.

Pure: the caller reads the lines and tells the time.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from moodq_config.errors import ConfigError

#: A record is cut at these: what never matches would else grow for ever.
MAX_LINES, MAX_BYTES = 500, 64 * 1024


@dataclass(frozen=True, slots=True)
class Line:
    """``data`` without its line end lies from byte ``start`` to ``end`` of the file, the line end included.
    ``cut``: it was too long, and ``data`` is its beginning."""

    start: int
    end: int
    data: bytes
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Joining:
    """``begins`` is searched in each line; after ``pause_s`` without another line a record is complete."""

    begins: re.Pattern[bytes]
    pause_s: float = 1.0


def joining(pattern: str, pause_s: float) -> Joining:
    """Raises ``ConfigError`` when ``pattern`` is no regular expression."""
    try:
        return Joining(re.compile(pattern.encode()), pause_s)
    except re.error as error:
        raise ConfigError(f"--multiline {pattern!r} is no regular expression: {error}") from None


class Joiner:
    """The lines of one file. Without ``joining`` every line is a record."""

    def __init__(self, joining: Joining | None) -> None:
        self._joining = joining
        self._lines: list[Line] = []
        self._bytes = 0
        self._last = 0.0

    @property
    def start(self) -> int | None:
        """Where the record that is being joined begins."""
        return self._lines[0].start if self._lines else None

    def add(self, line: Line, now: float) -> list[Line]:
        """The records that ``line`` completes."""
        if self._joining is None:
            return [line]
        full = len(self._lines) >= MAX_LINES or self._bytes + len(line.data) > MAX_BYTES
        done = self.flush() if full or self._joining.begins.search(line.data) else []
        self._lines.append(line)
        self._bytes += len(line.data) + 1
        self._last = now
        return done

    def paused(self, now: float) -> list[Line]:
        """The record that nothing was added to for long enough."""
        if self._joining is None or not self._lines or now - self._last < self._joining.pause_s:
            return []
        return self.flush()

    def flush(self) -> list[Line]:
        lines, self._lines, self._bytes = self._lines, [], 0
        if not lines:
            return []
        data = b"\n".join(line.data for line in lines)
        return [Line(lines[0].start, lines[-1].end, data, any(line.cut for line in lines))]
