"""The files of ``deploy``, read as what they are for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="session")
def compose() -> dict[str, Any]:
    """``compose.yaml``, with what its services share merged in."""
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text("utf-8"))
    return found


@pytest.fixture(scope="session")
def manifests() -> list[dict[str, Any]]:
    """Every Kubernetes object, kustomizations left out."""
    files = sorted((DEPLOY / "k8s").rglob("*.yaml"))
    return [
        found
        for file in files
        if file.name != "kustomization.yaml"
        for found in yaml.safe_load_all(file.read_text("utf-8"))
    ]
