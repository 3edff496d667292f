"""Every line of ``docs/guarantees.md`` that promises something names tests, and they exist."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def names_in(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text("utf-8")) if (ROOT / path).is_file() else ast.Module([], [])
    return frozenset(
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def rows() -> list[str]:
    promised = PAGE.partition("## Not promised")[0]
    return [
        line
        for line in promised.splitlines()
        if line.startswith("| ") and not line.startswith("| promised |")
    ]


def test_every_test_the_page_names_exists() -> None:
    named = NAMED.findall(PAGE)
    assert len(named) > 40
    assert [f"{path}::{name}" for path, name in named if name not in names_in(path)] == []


def test_every_promise_names_a_test() -> None:
    assert [row for row in rows() if not NAMED.search(row.split("|")[2])] == []


def test_every_name_in_backquotes_that_looks_like_a_test_is_read_as_one() -> None:
    assert PAGE.count("::test_") == len(NAMED.findall(PAGE))
