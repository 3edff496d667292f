"""What is written of a row: one line of JSON, and what can be read back from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from moodq_config.contracts import LabelScores
from moodq_config.errors import ConfigError
from moodq_producer.bulk.tagging import Tagged


@dataclass(frozen=True, slots=True)
class Record:
    """A row that was written: ``where`` it stands, its labels by task, or the code of its error."""

    where: str
    text: str
    labels: dict[str, LabelScores]
    code: str | None = None
    kept: dict[str, Any] = field(default_factory=dict)


def record_of(one: Tagged, *, many: bool) -> dict[str, Any]:
    """The record of a row; with ``many`` files it names its file."""
    result, row = one.result, one.row
    record: dict[str, Any] = {"file": row.file} if many else {}
    record |= {"line": row.line, **({"columns": row.kept} if row.kept else {}), "text": row.text}
    if result.error is not None:
        return {**record, "error": result.error.model_dump()}
    record["results"] = {task: found.model_dump() for task, found in result.results.items()}
    if result.truncated is not None:
        record["truncated"] = result.truncated.model_dump(exclude_none=True)
    return record


def summary_of(one: Tagged, *, many: bool) -> Record:
    """The same as ``read_records`` would give."""
    result, row = one.result, one.row
    labels = {task: found for task, found in result.results.items() if isinstance(found, LabelScores)}
    where = f"{row.file}:{row.line}" if many else str(row.line)
    return Record(where, row.text, labels, result.error.code if result.error else None, row.kept)


def read_records(lines: Iterable[bytes], name: str) -> Iterator[Record]:
    """Read back what ``record_of`` gave, or `moodq follow` wrote. Raises ``ConfigError`` for a line that is
    neither."""
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
            labels = {
                task: LabelScores(**found)
                for task, found in record.get("results", {}).items()
                if "label" in found
            }
            place = record["line"] if "line" in record else record["id"]  # `moodq follow` gives ids
            where = f"{record['file']}:{place}" if "file" in record else str(place)
            error = record.get("error")
            read = Record(
                where,
                str(record["text"]),
                labels,
                None if error is None else str(error["code"]),
                dict(record.get("columns", {})),
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ConfigError(f"{name}:{number} is no record of `moodq tag` or `moodq follow`") from None
        yield read
