"""The constraints in ``deploy`` fit pyproject.toml, and pin everything by hash."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="module")
def constraints() -> Any:
    spec = importlib.util.spec_from_file_location("constraints", DEPLOY / "constraints.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["constraints"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def text() -> str:
    return (DEPLOY / "constraints.txt").read_text("utf-8")


def test_the_file_fits_pyproject_and_names_no_index(constraints: Any, text: str) -> None:
    assert constraints.problems(text) == []
    assert len(constraints.pinned(text)) > 30


def test_the_file_for_gateways_fits_too_and_has_no_model_in_it(constraints: Any) -> None:
    text = (DEPLOY / "constraints-gateway.txt").read_text("utf-8")
    assert constraints.problems(text, "constraints-gateway.txt") == []
    assert {"fastapi", "rq", "prometheus-client"} <= constraints.pinned(text).keys()
    assert not {"torch", "transformers"} & constraints.pinned(text).keys()


def test_a_package_that_is_missing_of_another_version_or_without_hash_is_told(
    constraints: Any, text: str
) -> None:
    assert constraints.problems(text.replace("\nrq==", "\nrqq==")) == ["rq is missing"]
    old = text.replace("\nrq==3", "\nrq==2")
    assert any("is not rq" in one for one in constraints.problems(old))
    bare = text.replace("torch==2", "torch==1") + "left-pad==1.0\n"
    assert [one.split(":")[0] for one in constraints.problems(bare)] == [
        "the header names another torch than torch==2.13.0",
        "no hash",
    ]
    assert constraints.problems("--index-url https://x\n" + text)[-1] == "the file names an index"
