"""Cores and GPUs divided among worker processes: neighbours together, quotas respected, too many refused."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from moodq_config.errors import ConfigError
from moodq_config.settings import load_settings
from moodq_worker import cores
from moodq_worker.cores import Share, cgroup_quota, divided, gpus_here, shares, spans


def machine(folder: Path, *, sockets: int, cores_each: int, threads: int) -> Path:
    """sysfs of a machine whose logical cores are numbered as Linux does it: first threads first."""
    whole = sockets * cores_each
    for cpu in range(whole * threads):
        core = cpu % whole
        socket = core // cores_each
        here = folder / f"cpu{cpu}"
        (here / "topology").mkdir(parents=True)
        (here / "topology" / "physical_package_id").write_text(f"{socket}\n")
        (here / "topology" / "core_id").write_text(f"{core % cores_each}\n")
        (here / "cache" / "index3").mkdir(parents=True)
        (here / "cache" / "index3" / "shared_cpu_list").write_text(f"{socket * cores_each}-x\n")
    return folder


def test_both_threads_of_a_core_and_the_cores_of_a_socket_stay_together(tmp_path: Path) -> None:
    sysfs = machine(tmp_path, sockets=2, cores_each=4, threads=2)
    assert divided(range(16), 2, sysfs) == [(0, 1, 2, 3, 8, 9, 10, 11), (4, 5, 6, 7, 12, 13, 14, 15)]
    assert divided(range(16), 4, sysfs) == [(0, 1, 8, 9), (2, 3, 10, 11), (4, 5, 12, 13), (6, 7, 14, 15)]


def test_every_allowed_core_is_in_one_group_and_no_group_is_more_than_a_core_larger(tmp_path: Path) -> None:
    sysfs = machine(tmp_path, sockets=1, cores_each=8, threads=1)
    groups = divided([0, 1, 2, 4, 5, 6, 7], 3, sysfs)
    assert groups == [(0, 1, 2), (4, 5), (6, 7)]


def test_with_more_processes_than_whole_cores_each_gets_a_thread(tmp_path: Path) -> None:
    sysfs = machine(tmp_path, sockets=1, cores_each=2, threads=2)
    assert sorted(divided(range(4), 4, sysfs)) == [(0,), (1,), (2,), (3,)]


def test_cores_are_divided_where_the_system_tells_nothing_of_them(tmp_path: Path) -> None:
    assert divided([0, 1, 2, 3], 2, tmp_path) == [(0, 1), (2, 3)]


def test_the_strictest_quota_on_the_way_up_counts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("0::/machine.slice/moodq.service\n")
    root = tmp_path / "cgroup"
    inner = root / "machine.slice" / "moodq.service"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    assert cgroup_quota(own, root) is None
    (root / "machine.slice" / "cpu.max").write_text("250000 100000\n")
    assert cgroup_quota(own, root) == 2.5
    (inner / "cpu.max").write_text("400000 100000\n")
    assert cgroup_quota(own, root) == 2.5


def test_the_quota_of_the_first_version_of_cgroups_counts_too(tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("150000\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroup_quota(tmp_path / "none", tmp_path) == 1.5
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert cgroup_quota(tmp_path / "none", tmp_path) is None


@pytest.fixture
def eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_allowed", lambda: tuple(range(8)))
    monkeypatch.setattr(cores, "cgroup_quota", lambda: None)
    monkeypatch.setattr(cores, "divided", lambda given, count: divided(given, count, Path("/nowhere")))
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)


@pytest.mark.usefixtures("eight_cores")
def test_each_process_gets_threads_for_its_cores_unless_told_otherwise() -> None:
    none = {"CUDA_VISIBLE_DEVICES": ""}
    assert shares(load_settings(processes=2), none) == [Share(4, (0, 1, 2, 3)), Share(4, (4, 5, 6, 7))]
    assert [share.threads for share in shares(load_settings(processes=2, threads=1), none)] == [1, 1]


@pytest.mark.usefixtures("eight_cores")
def test_under_a_quota_nothing_is_pinned_and_the_threads_share_the_quota(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores, "cgroup_quota", lambda: 4.0)
    assert shares(load_settings(processes=2), {"CUDA_VISIBLE_DEVICES": ""}) == [Share(2), Share(2)]


@pytest.mark.usefixtures("eight_cores")
def test_auto_is_one_process_a_gpu_else_one_for_eight_cores() -> None:
    settings = load_settings(processes="auto")
    assert shares(settings, {"CUDA_VISIBLE_DEVICES": ""}) == [Share(8, tuple(range(8)))]
    found = shares(settings, {"CUDA_VISIBLE_DEVICES": "2,3"})
    assert [(share.gpu, share.cores) for share in found] == [("2", (0, 1, 2, 3)), ("3", (4, 5, 6, 7))]


@pytest.mark.usefixtures("eight_cores")
def test_more_processes_than_gpus_take_turns_on_them() -> None:
    found = shares(load_settings(processes=4), {"CUDA_VISIBLE_DEVICES": "0,1"})
    assert [share.gpu for share in found] == ["0", "1", "0", "1"]


@pytest.mark.usefixtures("eight_cores")
def test_gpus_are_left_alone_by_an_engine_on_the_cpu() -> None:
    found = shares(load_settings(processes="auto", device="cpu"), {"CUDA_VISIBLE_DEVICES": "0,1"})
    assert [share.gpu for share in found] == [None]


@pytest.mark.usefixtures("eight_cores")
def test_more_processes_than_cores_are_refused_with_the_number_there_is() -> None:
    with pytest.raises(ConfigError, match="MOODQ_PROCESSES: 9 processes for 8 cores"):
        shares(load_settings(processes=9), {"CUDA_VISIBLE_DEVICES": ""})


def test_the_driver_is_asked_for_gpus_only_when_the_environment_names_none(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho GPU-1\necho GPU-2\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpus_here({}) == ("GPU-1", "GPU-2")
    assert gpus_here({"CUDA_VISIBLE_DEVICES": "-1"}) == ()
    driver.write_text("#!/bin/sh\necho no devices were found >&2\nexit 6\n")
    assert gpus_here({}) == ()


def test_cores_are_written_as_taskset_writes_them() -> None:
    assert spans((0, 1, 2, 3, 8)) == "0-3,8"
