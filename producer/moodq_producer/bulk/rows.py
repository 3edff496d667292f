"""Rows of texts from files: plain lines, JSONL, CSV, TSV or Parquet, compressed or not, one after another.

Every row has a number, counted over all files from 0 on, so that a run can be resumed at any of them. A row
that holds no text is told as such and does not end the run.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from moodq_config.errors import BadInput, ConfigError, ErrorCode
from moodq_producer.bulk.files import STDIN, Position, open_file
from moodq_producer.bulk.openai_batch import read_request

Format = Literal["lines", "jsonl", "csv", "tsv", "parquet", "openai-batch"]
#: Characters one field of a CSV file may have; a text has fewer.
MAX_FIELD_CHARS = 4_000_000
_SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}


@dataclass(frozen=True, slots=True)
class Row:
    """``line`` is the row's line in ``file``, from 1 on (of a Parquet file its row). ``error`` says why it
    holds no text."""

    number: int
    file: str
    line: int
    text: str = ""
    kept: dict[str, Any] = field(default_factory=dict)
    error: BadInput | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a row of a table has its text, and what of it goes into the output."""

    text: str
    kept: tuple[str, ...] = ()


def format_of(path: str) -> Format:
    """By the name, without ``.gz`` or ``.zst``; lines where it says nothing."""
    name = path.removesuffix(".gz").removesuffix(".zst")
    return _SUFFIXES.get(Path(name).suffix.lower(), "lines")


def read_rows(
    paths: Sequence[str], columns: Columns, forced: Format | None, position: Position
) -> Iterator[Row]:
    """All rows of all files. Raises ``ConfigError`` for a file that cannot be read as its format at all."""
    number = 0
    for path in paths:
        chosen = forced or format_of(path)
        name = "stdin" if path == STDIN else path
        for line, text, kept, error in _READERS[chosen](path, columns, position):
            yield Row(number, name, line, text, kept, error)
            number += 1
        position.leave(path)


_Found = tuple[int, str, dict[str, Any], BadInput | None]


def _read_lines(path: str, columns: Columns, position: Position) -> Iterator[_Found]:
    for number, line in _numbered(path, position):
        if not line.strip():
            continue
        try:
            yield number, _decoded(line, number), {}, None
        except BadInput as error:
            yield number, "", {}, error


def _read_jsonl(path: str, columns: Columns, position: Position) -> Iterator[_Found]:
    for number, line in _numbered(path, position):
        if not line.strip():
            continue
        try:
            row = json.loads(_decoded(line, number), parse_constant=_no_constant)
            if not isinstance(row, dict):
                raise _bad(f"line {number} is not a JSON object")
            yield number, _text_of(row, columns, number), _kept(row, columns), None
        except (ValueError, RecursionError) as error:
            yield number, "", {}, _bad(f"line {number} is not JSON ({type(error).__name__})")
        except BadInput as error:
            yield number, "", {}, error


def _read_openai_batch(path: str, columns: Columns, position: Position) -> Iterator[_Found]:
    for number, line in _numbered(path, position):
        if not line.strip():
            continue
        try:
            text, asked = read_request(_decoded(line, number), number)
            yield number, _text_of({columns.text: text}, columns, number), asked, None
        except BadInput as error:
            yield number, "", {}, error


def _read_table(path: str, columns: Columns, position: Position, delimiter: str) -> Iterator[_Found]:
    csv.field_size_limit(MAX_FIELD_CHARS)
    with open_file(path, position) as raw:
        text = io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="")
        reader: csv.DictReader[str] = (
            csv.DictReader(text)
            if delimiter == ","
            else csv.DictReader(text, delimiter=delimiter, quoting=csv.QUOTE_NONE)
        )
        try:
            names = reader.fieldnames or []
            _must_have(path, names, columns)
            for row in reader:
                kept = _kept(row, columns)
                try:
                    yield reader.line_num, _text_of(row, columns, reader.line_num), kept, None
                except BadInput as error:
                    yield reader.line_num, "", kept, error
        except csv.Error as error:
            raise ConfigError(f"{path}:{reader.line_num}: {error}; is it really a table?") from None


def _read_csv(path: str, columns: Columns, position: Position) -> Iterator[_Found]:
    return _read_table(path, columns, position, ",")


def _read_tsv(path: str, columns: Columns, position: Position) -> Iterator[_Found]:
    return _read_table(path, columns, position, "\t")


def _read_parquet(path: str, columns: Columns, position: Position) -> Iterator[_Found]:
    if path == STDIN:
        raise ConfigError("Parquet cannot be read from standard input; name a file")
    try:
        from pyarrow.parquet import ParquetFile
    except ModuleNotFoundError:
        raise ConfigError(
            f"{path}: reading Parquet needs pyarrow; install it with: pip install 'moodq[parquet]'",
            code=ErrorCode.NOT_INSTALLED,
        ) from None
    with ParquetFile(path) as file:
        _must_have(path, file.schema_arrow.names, columns)
        number = 0
        for batch in file.iter_batches(columns=[columns.text, *columns.kept]):
            for row in batch.to_pylist():
                number += 1
                try:
                    yield number, _text_of(row, columns, number), _kept(row, columns), None
                except BadInput as error:
                    yield number, "", _kept(row, columns), error


_READERS: dict[Format, Callable[[str, Columns, Position], Iterator[_Found]]] = {
    "lines": _read_lines,
    "jsonl": _read_jsonl,
    "csv": _read_csv,
    "tsv": _read_tsv,
    "parquet": _read_parquet,
    "openai-batch": _read_openai_batch,
}


def _numbered(path: str, position: Position) -> Iterator[tuple[int, bytes]]:
    with open_file(path, position) as lines:
        yield from enumerate(lines, 1)


def _decoded(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"line {number} is not valid UTF-8 (byte {error.start}); convert the input, "
            "e.g. with: iconv -f GB18030 -t UTF-8",
            code=ErrorCode.INVALID_UTF8,
        ) from None


def _text_of(row: dict[str, Any], columns: Columns, line: int) -> str:
    text = row.get(columns.text)
    if not isinstance(text, str):
        raise _bad(f"line {line} has no text in column {columns.text!r}; name its column with --text-column")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise BadInput(f"line {line} is not valid UTF-8", code=ErrorCode.INVALID_UTF8) from None
    return text


def _kept(row: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """Columns as they go into the output; what JSON has no number for is null."""
    kept = {name: row.get(name) for name in columns.kept}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in kept.items()
    }


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _must_have(path: str, names: Sequence[str], columns: Columns) -> None:
    missing = [name for name in (columns.text, *columns.kept) if name not in names]
    if missing:
        raise ConfigError(
            f"{path} has no column {', '.join(map(repr, missing))}, but {', '.join(names) or 'none'}; "
            "name the text's with --text-column, and others to keep with --columns"
        )


def _bad(message: str) -> BadInput:
    return BadInput(message, code=ErrorCode.INVALID_FIELD)
