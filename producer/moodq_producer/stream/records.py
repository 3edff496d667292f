"""What goes through ``moodq follow``: a record, where records come from, and what is written of one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

from moodq_config.contracts import Result
from moodq_config.errors import BadInput, ConfigError, ErrorCode


@dataclass(frozen=True, slots=True)
class Record:
    """One text. ``id`` follows from where it lies, so that a repeat has the same; ``origin`` tells that place
    in the output; ``mark`` is the source's own; ``error`` says why the record holds no text."""

    id: str
    origin: dict[str, Any]
    mark: Any
    text: str = ""
    kept: dict[str, Any] = field(default_factory=dict)
    error: BadInput | None = None

    @property
    def item_id(self) -> str:
        """Id of the item in the queue. It names the text as well: a result that Redis still holds for this
        place is never taken for another text's."""
        return f"{self.id}-{blake2b(self.text.encode(), digest_size=4).hexdigest()}"


_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class Source(Protocol):
    """Where records come from. Used from one event loop."""

    async def read(self, limit: int) -> list[Record]:
        """Up to ``limit`` records; none when none came within a second."""

    async def commit(self, records: Sequence[Record]) -> None:
        """The results of ``records`` are written: never give them again, also after a kill."""

    async def tend(self) -> dict[str, int]:
        """To be called twice a second, also while nothing can be read: keeps hold of what is there. Returns
        the lag: by file pattern or stream, bytes or entries that have come in and are not committed."""

    async def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Reading:
    """How bytes become a text: as they are, or as the field ``column`` of a JSON object; and which other
    fields are ``kept``."""

    json: bool = False
    column: str = "text"
    kept: tuple[str, ...] = ()

    def text(self, data: bytes) -> tuple[str, dict[str, Any]]:
        """The text and the fields kept. Raises ``BadInput``."""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise BadInput(
                f"not valid UTF-8 (byte {error.start}); convert it before, e.g. with: iconv -f GB18030 "
                "-t UTF-8",
                code=ErrorCode.INVALID_UTF8,
            ) from None
        if not self.json:
            return text, {}
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadInput(
                f"not JSON ({type(error).__name__}); leave --format jsonl out for plain text"
            ) from None
        found = row.get(self.column) if isinstance(row, dict) else None
        if not isinstance(found, str):
            raise BadInput(
                f"a JSON object with a text in {self.column!r} is needed; name it with --text-column"
            )
        try:
            found.encode()
        except UnicodeEncodeError:
            raise BadInput("not valid UTF-8 (a lone surrogate)", code=ErrorCode.INVALID_UTF8) from None
        return found, {name: row.get(name) for name in self.kept}


def written(record: Record, result: Result) -> dict[str, Any]:
    """What the output holds of ``record``."""
    row: dict[str, Any] = {"id": record.id, **record.origin}
    if record.kept:
        row["columns"] = record.kept
    row["text"] = record.text
    if result.error is not None:
        row["error"] = result.error.model_dump()
        return row
    row["results"] = {task: found.model_dump() for task, found in result.results.items()}
    if result.cached is not None:
        row["cached"] = result.cached
    if result.truncated is not None:
        row["truncated"] = result.truncated.model_dump(exclude_none=True)
    return row


def duration_s(text: str) -> float:
    """Seconds of ``500ms``, ``10s``, ``5m``, ``1h`` or ``1d``. Raises ``ConfigError``."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{text!r} is no duration; write a number and ms, s, m, h or d, e.g. 5m")
    seconds = float(found[1]) * _UNITS_S[found[2]]
    if not 0.1 <= seconds <= 7 * 86400:
        raise ConfigError(f"{text!r} is out of range; accepted: 100ms to 7d")
    return seconds
