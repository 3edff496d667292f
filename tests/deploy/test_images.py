"""The Dockerfiles: pinned, without root, with a health check, and about files that there are."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "deploy" / "docker").glob("*.Dockerfile"))
#: A tag that says one version, not the newest.
PINNED = re.compile(r"(?!.*latest)[\w./-]+:v?\d+\.\d+(\.\d+)?[\w.-]*")


def steps(file: Path) -> list[dict[str, Any]]:
    with file.open("rb") as stream:
        found: list[dict[str, Any]] = DockerfileParser(fileobj=stream).structure
    return [step for step in found if step["instruction"] != "COMMENT"]


def last_stage(file: Path) -> list[dict[str, Any]]:
    found = steps(file)
    begin = max(index for index, step in enumerate(found) if step["instruction"] == "FROM")
    return found[begin:]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_base_is_one_version_or_a_stage_of_the_file(file: Path) -> None:
    values = dict(step["value"].split("=", 1) for step in steps(file) if step["instruction"] == "ARG")
    bases = [step["value"].split()[0] for step in steps(file) if step["instruction"] == "FROM"]
    assert len(bases) >= 3
    for base in bases:
        assert PINNED.fullmatch(re.sub(r"\$\{(\w+)\}", lambda name: values[name[1]], base)), base


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_image_runs_without_root_has_a_health_check_and_hears_sigterm(file: Path) -> None:
    stage = {step["instruction"]: step["value"] for step in last_stage(file)}
    user, _, group = stage["USER"].partition(":")
    assert int(user) >= 10_000 <= int(group)
    assert "/healthz" in stage["HEALTHCHECK"]
    assert stage["STOPSIGNAL"] == "SIGTERM"
    # Without a shell in between, which would keep the signal to itself.
    assert stage["ENTRYPOINT"] == '["moodq"]'


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_packages_come_by_hash_and_nothing_is_piped_into_a_shell(file: Path) -> None:
    runs = [step["value"] for step in steps(file) if step["instruction"] == "RUN"]
    assert not [run for run in runs if re.search(r"\b(curl|wget)\b|\|\s*(ba)?sh\b", run)]
    assert not [step for step in steps(file) if step["instruction"] == "ADD"]
    installs = [part for run in runs for part in run.split("&&") if "pip install" in part]
    for install in installs:
        assert (
            "--require-hashes" in install or "--no-deps" in install or re.search(r"(==|torch==)", install)
        ), install


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_is_copied_is_there_and_not_ignored(file: Path) -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for step in steps(file):
        if step["instruction"] != "COPY" or "--from" in step["value"]:
            continue
        for source in step["value"].split()[:-1]:
            assert (ROOT / source).exists(), source
            assert any(Path(source).match(pattern) for pattern in kept), f"{source} is in .dockerignore"


def test_the_workers_torch_is_the_one_of_pyproject() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (torch,) = [one for one in declared["worker"] if one.startswith("torch==")]
    text = (ROOT / "deploy" / "docker" / "worker.Dockerfile").read_text()
    assert f"ARG TORCH={torch.removeprefix('torch==')}\n" in text


def test_what_compose_pulls_is_one_version(compose: dict[str, Any]) -> None:
    pulled = {one["image"] for one in compose["services"].values()} - {"moodq-worker", "moodq-gateway"}
    assert len(pulled) == 3
    assert all(PINNED.fullmatch(image) for image in pulled)
