"""What the engine computes on and in: device and precision."""

from __future__ import annotations

import ctypes

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
