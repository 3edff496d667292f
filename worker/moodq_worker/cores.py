"""The cores and GPUs this process may use, and how several worker processes share them out. Imports no torch.

Three limits count: the affinity (``taskset``, a cpuset), the quota of the cgroup and of those it lies in
(containers, systemd's ``CPUQuota``), and how many processes there are. Cores are handed out neighbours first,
both threads of a core together, so that a group crosses as few caches and sockets as can be.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from moodq_config.errors import ConfigError
from moodq_config.settings import Settings

#: Cores that one process is given when it may choose: about as many as share a last-level cache. The products
#: of a small model are too small to keep more of them busy.
CORES_PER_PROCESS = 8
#: Seconds the NVIDIA driver may take to list its devices; the first call loads it.
DRIVER_TIMEOUT_S = 30.0

_SYSFS_CPU = Path("/sys/devices/system/cpu")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Share:
    """What one process gets. ``cores``: those it is pinned to, empty where it may run on any; ``threads``: of
    its engine; ``gpu``: its ``CUDA_VISIBLE_DEVICES``, None where that stays as it is."""

    threads: int
    cores: tuple[int, ...] = ()
    gpu: str | None = None

    def __str__(self) -> str:
        where = f"cores {spans(self.cores)}" if self.cores else "any core"
        return f"{where}, {self.threads} threads" + (f", GPU {self.gpu}" if self.gpu is not None else "")


def usable_cores() -> int:
    """Cores this process may use: the smaller of its affinity and its cgroup's quota, at least 1."""
    allowed, quota = len(_allowed()), cgroup_quota()
    return max(1, min(allowed, int(quota) if quota else allowed))


def shares(settings: Settings, environ: Mapping[str, str] = os.environ) -> list[Share]:
    """One share for each process that ``MOODQ_PROCESSES`` asks for.

    Raises ``ConfigError`` for more processes than there are cores, where no GPU does the work.
    """
    gpus = gpus_here(environ) if settings.device in ("auto", "cuda") and settings.engine == "hf" else ()
    cores, quota = _allowed(), cgroup_quota()
    wanted = settings.processes
    count = (len(gpus) or max(1, round(usable_cores() / CORES_PER_PROCESS))) if wanted == "auto" else wanted
    if count > usable_cores() and not gpus:
        raise ConfigError(
            f"MOODQ_PROCESSES: {count} processes for {usable_cores()} cores; at most one a core, or auto"
        )
    if count > len(cores) or not hasattr(os, "sched_setaffinity") or (quota and quota < len(cores)):
        # A quota is time on any core. Pinned, the containers of a machine would all crowd on the same ones.
        groups: list[tuple[int, ...]] = [()] * count
    else:
        groups = divided(cores, count)
    return [
        Share(
            threads=settings.threads or len(group) or max(1, usable_cores() // count),
            cores=group,
            gpu=gpus[index % len(gpus)] if gpus else None,
        )
        for index, group in enumerate(groups)
    ]


def divided(cores: Sequence[int], count: int, sysfs: Path = _SYSFS_CPU) -> list[tuple[int, ...]]:
    """``cores`` in ``count`` groups of neighbours; a core's threads stay together while there are as many
    whole cores as groups."""
    ordered = sorted(cores, key=lambda core: _place(core, sysfs))
    whole = [tuple(threads) for _, threads in groupby(ordered, key=lambda core: _place(core, sysfs)[:-1])]
    units = whole if len(whole) >= count else [(core,) for core in ordered]
    least, more = divmod(len(units), count)
    groups, start = [], 0
    for index in range(count):
        end = start + least + (index < more)
        groups.append(tuple(sorted(core for unit in units[start:end] for core in unit)))
        start = end
    return groups


def gpus_here(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The GPUs as ``CUDA_VISIBLE_DEVICES`` names them: those it names already, else the driver's list."""
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return tuple(part.strip() for part in named.split(",") if part.strip() not in ("", "-1"))
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        listed = subprocess.run(
            [program, "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=DRIVER_TIMEOUT_S, check=True,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in listed.splitlines() if line.startswith("GPU-"))


def cgroup_quota(own: Path = _OWN_CGROUP, root: Path = _CGROUPS) -> float | None:
    """Cores the cgroup and those above it grant (v2, then v1), or None when none sets a limit."""
    found = []
    for folder in _own_folders(own, root):
        try:
            quota, period = (folder / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if quota != "max" and float(period) > 0:
            found.append(float(quota) / float(period))
    if not found:
        try:
            quota, period = (
                (root / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
            )
            if float(quota) > 0 and float(period) > 0:
                found.append(float(quota) / float(period))
        except (OSError, ValueError):
            return None
    return min(found, default=None)


def spans(cores: Sequence[int]) -> str:
    """``0-3,8`` for ``(0, 1, 2, 3, 8)``, as ``taskset`` writes it."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def _allowed() -> tuple[int, ...]:
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def _own_folders(own: Path, root: Path) -> list[Path]:
    """The folder of this process's cgroup (v2) and those above it, as far as they are to be seen."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    path = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    folder = root / path.strip("/")
    above = [parent for parent in folder.parents if parent == root or root in parent.parents]
    return [folder, *above]


def _place(core: int, sysfs: Path) -> tuple[int, int, int, int]:
    """Socket, last-level cache, core and thread of a logical core, as far as the system tells them."""
    folder = sysfs / f"cpu{core}"
    caches = sorted(folder.glob("cache/index*/shared_cpu_list"))
    return (
        _number(folder / "topology" / "physical_package_id"),
        _number(caches[-1]) if caches else 0,
        _number(folder / "topology" / "core_id", otherwise=core),
        core,
    )


def _number(path: Path, otherwise: int = 0) -> int:
    """The first number in a file."""
    try:
        found = re.match(r"\d+", path.read_text())
    except OSError:
        return otherwise
    return int(found[0]) if found else otherwise
