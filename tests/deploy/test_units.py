"""The systemd units, by systemd's own checks."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from moodq_config.settings import Settings

SYSTEMD = Path(__file__).parents[2] / "deploy" / "systemd"
UNITS = {
    "moodq-worker@main.service": "moodq-worker@.service",
    "moodq-gateway.service": "moodq-gateway.service",
}
#: Of 10: what systemd-analyze calls "OK" begins below 4.
MOST_EXPOSED = 2.0


@pytest.mark.parametrize(("name", "file"), UNITS.items())
def test_systemd_takes_the_unit_without_a_warning_and_finds_it_locked_down(
    name: str, file: str, tmp_path: Path
) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed")
    # The program must be there for the check.
    text = (SYSTEMD / file).read_text("utf-8").replace("/opt/moodq/bin/moodq", "/bin/true")
    unit = tmp_path / name
    unit.write_text(text, "utf-8")
    checked = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, "")
    done = subprocess.run(
        [program, "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"exposure level for \S+ ([\d.]+)", done.stdout)
    assert found is not None, done.stdout + done.stderr
    assert float(found[1]) < MOST_EXPOSED


def test_a_worker_has_longer_to_stop_than_it_drains() -> None:
    found = re.search(r"TimeoutStopSec=(\d+)", (SYSTEMD / "moodq-worker@.service").read_text())
    assert found is not None
    assert int(found[1]) > Settings.model_fields["drain_timeout_s"].default + 15
