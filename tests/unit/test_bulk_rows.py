"""Rows of texts from files of every kind, and what is said of those that hold none."""

from __future__ import annotations

import gzip
import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from moodq_config.errors import ConfigError
from moodq_producer.bulk.files import Position, expand
from moodq_producer.bulk.output import _line
from moodq_producer.bulk.rows import Columns, Row, format_of, read_rows

TEXTS = ["很好吃，下次再来", 'He said "fine", twice', "a\ttab", "last"]


def rows_of(*paths: Path, column: str = "text", kept: tuple[str, ...] = ()) -> list[Row]:
    names = [str(path) for path in paths]
    return list(read_rows(names, Columns(column, kept), None, Position(names)))


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_plain_lines_have_their_numbers_and_blank_ones_are_passed_over(tmp_path: Path) -> None:
    found = rows_of(written(tmp_path / "a.log", "\ufeffone\n\n  \ntwo\r\nthree"))
    assert [(row.number, row.line, row.text) for row in found] == [
        (0, 1, "one"),
        (1, 4, "two"),
        (2, 5, "three"),
    ]


def test_rows_are_numbered_on_over_all_files(tmp_path: Path) -> None:
    found = rows_of(written(tmp_path / "a.log", "one\ntwo\n"), written(tmp_path / "b.log", "three\n"))
    assert [(row.number, row.line, Path(row.file).name) for row in found] == [
        (0, 1, "a.log"), (1, 2, "a.log"), (2, 1, "b.log"),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "a.jsonl.gz", "a.csv.zst"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    records: list[dict[str, Any]] = [{"text": text, "stars": str(index)} for index, text in enumerate(TEXTS)]
    if ".parquet" in name:
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(arrow.Table.from_pylist(records), path)
    else:
        plain = (
            "".join(json.dumps(record) + "\n" for record in records)
            if ".jsonl" in name
            else "stars,text\n"
            + "".join(f'{r["stars"]},"{r["text"].replace(chr(34), chr(34) * 2)}"\n' for r in records)
        ).encode()
        if name.endswith(".gz"):
            plain = gzip.compress(plain)
        elif name.endswith(".zst"):
            plain = pytest.importorskip("zstandard").compress(plain)
        path.write_bytes(plain)
    found = rows_of(path, kept=("stars",))
    assert [row.text for row in found] == TEXTS
    assert [row.kept for row in found] == [{"stars": str(index)} for index in range(4)]


def test_a_tab_separated_file_has_no_quotes(tmp_path: Path) -> None:
    [row] = rows_of(written(tmp_path / "a.tsv", 'text\tid\nsays "no\t7\n'), kept=("id",))
    assert (row.text, row.kept) == ('says "no', {"id": "7"})


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("a.log", b"good\n\xff\xfe\n", "invalid_utf8"),
        ("a.jsonl", b'{"text": "good"}\nnot json\n', "invalid_field"),
        ("a.jsonl", b'{"text": "good"}\n[1]\n', "invalid_field"),
        ("a.jsonl", b'{"text": "good"}\n{"text": 7}\n', "invalid_field"),
        ("a.jsonl", b'{"text": "good"}\n{"text": "\\ud800"}\n', "invalid_utf8"),
        ("a.csv", b"text\ngood\n\xff\n", "invalid_utf8"),
    ],
)
def test_a_row_without_a_text_is_told_with_its_line_and_ends_nothing(
    tmp_path: Path, name: str, content: bytes, code: str
) -> None:
    path = written(tmp_path / name, content + (b'{"text": "after"}\n' if "jsonl" in name else b"after\n"))
    good, bad, after = rows_of(path)
    assert (good.text, good.error, after.text) == ("good", None, "after")
    assert bad.error is not None
    assert str(bad.error.code) == code
    assert str(bad.line) in bad.error.message or "csv" in name


def test_a_table_without_the_column_is_refused_naming_those_it_has(tmp_path: Path) -> None:
    path = written(tmp_path / "a.csv", "review,stars\ngood,5\n")
    with pytest.raises(ConfigError, match=r"'text'.*review, stars.*--text-column"):
        rows_of(path)


def test_kept_columns_are_such_as_json_can_hold(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    path = tmp_path / "a.parquet"
    rows = [{"text": "x", "at": datetime(2026, 1, 2, 3), "score": float("nan")}]
    parquet.write_table(arrow.Table.from_pylist(rows), path)
    [row] = rows_of(path, kept=("at", "score"))
    assert json.loads(_line(row.kept)) == {"at": "2026-01-02T03:00:00", "score": None}


@pytest.mark.parametrize("name", ["a.log.gz", "a.csv.gz", "a.csv.zst"])
@pytest.mark.parametrize("harm", ["cut", "changed"])
def test_a_file_that_is_cut_short_or_broken_is_told_by_name(tmp_path: Path, name: str, harm: str) -> None:
    plain = b"text\n" + os.urandom(50_000).hex().encode() + b"\n"
    if name.endswith(".gz"):
        packed = gzip.compress(plain)
    else:
        zstandard = pytest.importorskip("zstandard")
        packed = zstandard.ZstdCompressor(write_checksum=True).compress(plain)
    harmed = packed[:-2_000] if harm == "cut" else packed[:100] + b"\xff" * 500 + packed[600:]
    with pytest.raises(ConfigError, match=rf"{name} cannot be read"):
        rows_of(written(tmp_path / name, harmed))


def test_a_zst_file_of_several_frames_is_read_to_its_end(tmp_path: Path) -> None:
    zstandard = pytest.importorskip("zstandard")
    lines = [f"{number} {os.urandom(40).hex()}" for number in range(5_000)]
    frames = [
        zstandard.compress("\n".join(lines[start : start + 500]).encode() + b"\n")
        for start in range(0, 5_000, 500)
    ]
    assert [row.text for row in rows_of(written(tmp_path / "a.log.zst", b"".join(frames)))] == lines


def test_globs_are_sorted_and_a_pattern_without_files_is_refused(tmp_path: Path) -> None:
    for name in ("b.log", "a.log", "c.txt"):
        written(tmp_path / name, "x\n")
    assert [Path(path).name for path in expand([str(tmp_path / "*.log")])] == ["a.log", "b.log"]
    with pytest.raises(ConfigError, match="no such file"):
        expand([str(tmp_path / "*.nothing")])


def test_the_name_tells_the_format() -> None:
    names = ("a.csv", "b.TSV.gz", "c.jsonl.zst", "d.ndjson", "e.log.gz", "f")
    assert [format_of(name) for name in names] == [
        "csv", "tsv", "jsonl", "jsonl", "lines", "lines",
    ]  # fmt: skip
