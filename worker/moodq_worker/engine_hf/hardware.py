"""What this process may really use: device, precision, cores."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import torch

from moodq_config.errors import ConfigError

#: What the weights are loaded as; int8 is made of bf16.
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "int8": torch.bfloat16}


def choose_device(wanted: str) -> torch.device:
    """``auto`` takes a GPU when there is one. Raises ``ConfigError`` when the wanted device is absent."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        wanted = next(name for name in ("cuda", "mps", "cpu") if present[name])
    if not present[wanted]:
        raise ConfigError(f"MOODQ_DEVICE: {wanted} is not available here; use auto or cpu")
    return torch.device(wanted)


def choose_precision(wanted: str, device: torch.device) -> str:
    """``auto`` is bf16 where the hardware multiplies it natively, fp32 elsewhere.

    On a CPU without avx512_bf16 or AMX, bf16 is emulated and slower than fp32.
    """
    if wanted == "int8" and (device.type != "cpu" or not torch.backends.mkldnn.is_available()):
        raise ConfigError("MOODQ_PRECISION: int8 is for CPUs, on a torch built with oneDNN; use auto here")
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "mps":
        return "fp16"
    return "bf16" if _cpu_multiplies_bf16() else "fp32"


def usable_cores() -> int:
    """Cores this process may use: the smaller of its affinity and its cgroup's quota, at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _cgroup_quota()
    return max(1, min(affinity, int(quota) if quota else affinity))


def give_back_memory() -> None:
    """Return freed pages to the system where the C library can (glibc keeps them otherwise)."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _cpu_multiplies_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(
        capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("arm_bf16")
    )


def _cgroup_quota() -> float | None:
    """Cores the cgroup grants (v2, then v1), or None when it sets no limit."""
    for path, parse in (
        ("/sys/fs/cgroup/cpu.max", lambda text: text.split()),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", lambda text: [text.strip(), _v1_period()]),
    ):
        try:
            quota, period = parse(Path(path).read_text())
        except (OSError, ValueError):
            continue
        if quota not in ("max", "-1") and float(period) > 0:
            return float(quota) / float(period)
    return None


def _v1_period() -> str:
    return Path("/sys/fs/cgroup/cpu/cpu.cfs_period_us").read_text().strip()
