"""The Kubernetes manifests, against Kubernetes' own schemas and against what moodq says of itself."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest

from moodq_config.settings import Settings

ROOT = Path(__file__).parents[2]
KUBERNETES = "1.31"
#: Not Kubernetes' own kinds.
CUSTOM = {"ScaledObject", "PodMonitor"}
#: Seconds beyond ``MOODQ_DRAIN_TIMEOUT_S`` in which results are handed over.
HAND_OVER_S = 15


def kinds(manifests: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def test_every_object_is_valid_for_kubernetes_without_an_unknown_field(
    manifests: list[dict[str, Any]],
) -> None:
    checked = [one for one in manifests if one["kind"] not in CUSTOM]
    assert len(checked) >= 8
    for one in checked:
        kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_a_wrong_field_would_be_found(manifests: list[dict[str, Any]]) -> None:
    worker = {**kinds(manifests, "Deployment")["moodq-worker"], "specs": {}}
    with pytest.raises(kubernetes_validate.ValidationError, match="specs"):
        kubernetes_validate.validate(worker, KUBERNETES, strict=True)


def test_a_pod_has_no_root_no_rights_and_a_root_file_system_it_cannot_write_to(
    manifests: list[dict[str, Any]],
) -> None:
    for name, deployment in kinds(manifests, "Deployment").items():
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True, name
            assert context["allowPrivilegeEscalation"] is False, name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert "memory" in container["resources"]["limits"], name
            assert {"livenessProbe", "readinessProbe"} <= container.keys(), name


def test_a_worker_has_time_to_pause_drain_and_hand_over_before_it_is_killed(
    manifests: list[dict[str, Any]],
) -> None:
    pod = kinds(manifests, "Deployment")["moodq-worker"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    drain = next(one["value"] for one in container["env"] if one["name"] == "MOODQ_DRAIN_TIMEOUT_S")
    pause = container["lifecycle"]["preStop"]["exec"]["command"][1]
    assert pod["terminationGracePeriodSeconds"] > float(drain) + float(pause) + HAND_OVER_S


def test_selectors_find_the_pods_they_mean(manifests: list[dict[str, Any]]) -> None:
    labels = {
        name: one["spec"]["template"]["metadata"]["labels"]
        for name, one in kinds(manifests, "Deployment").items()
    }
    for name, budget in kinds(manifests, "PodDisruptionBudget").items():
        assert budget["spec"]["selector"]["matchLabels"] == labels[name]
    assert kinds(manifests, "Service")["moodq-gateway"]["spec"]["selector"] == labels["moodq-gateway"]
    (scaled,) = kinds(manifests, "ScaledObject").values()
    assert scaled["spec"]["scaleTargetRef"]["name"] in labels


def test_every_setting_in_the_environment_is_one(
    manifests: list[dict[str, Any]], compose: dict[str, Any]
) -> None:
    names = {
        one["name"]
        for deployment in kinds(manifests, "Deployment").values()
        for container in deployment["spec"]["template"]["spec"]["containers"]
        for one in container["env"]
    }
    for service in compose["services"].values():
        names |= {name for name in service.get("environment", {}) if name.startswith("MOODQ_")}
    known = {f"MOODQ_{field.upper()}" for field in Settings.model_fields} | {"MOODQ_CONFIG"}
    assert names <= known


def test_workers_are_scaled_on_what_waits_and_on_what_is_in_flight_by_metrics_that_there_are(
    manifests: list[dict[str, Any]],
) -> None:
    (scaled,) = kinds(manifests, "ScaledObject").values()
    queries = [trigger["metadata"]["query"] for trigger in scaled["spec"]["triggers"]]
    assert any("moodq_queue_backlog_seconds" in query for query in queries)
    assert any('moodq_queue_jobs{status="started"}' in query for query in queries)
    documented = (ROOT / "docs" / "metrics.md").read_text("utf-8")
    for name in re.findall(r"moodq_\w+", " ".join(queries)):
        assert f"`{name}`" in documented
    for trigger in scaled["spec"]["triggers"]:
        assert all(isinstance(value, str) for value in trigger["metadata"].values())


@pytest.mark.parametrize("folder", ["base", "keda", "monitoring"])
def test_kustomize_renders_each_folder(folder: str) -> None:
    program = shutil.which("kubectl")
    if program is None:
        pytest.skip("kubectl is not installed")
    done = subprocess.run(
        [program, "kustomize", str(ROOT / "deploy" / "k8s" / folder)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    if folder == "keda":
        assert "replicas: 2\n  selector" not in done.stdout.split("name: moodq-worker\nspec:")[1]
