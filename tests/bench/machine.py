"""What the machine can do: the matmul peak on the model's shapes, and the floor it implies."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .child import Child

#: (tokens, in, out): the model's own matrices at batch sizes the worker uses, and one large square.
SHAPES = ((512, 896, 4864), (512, 4864, 896), (1024, 896, 4864), (1024, 4864, 896), (2048, 2048, 2048))
REPEATS = 6


class MatmulPeak:
    """Lives in a child process: the best matmul speed of any shape, in FLOP/s."""

    def __init__(self) -> None:
        import torch

        from moodq_worker.cores import usable_cores

        torch.set_num_threads(usable_cores())
        self._torch = torch

    def threads(self) -> int:
        return int(self._torch.get_num_threads())

    def measure(self, precision: str) -> float:
        torch = self._torch
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        best = 0.0
        for tokens, width_in, width_out in SHAPES:
            x = torch.randn(tokens, width_in).to(dtype)
            for multiply in self._ways(torch.randn(width_out, width_in).to(dtype), precision):
                for _ in range(REPEATS):
                    begin = time.perf_counter()
                    multiply(x)
                    taken = time.perf_counter() - begin
                    best = max(best, 2 * tokens * width_in * width_out / taken)
        return best

    def _ways(self, weight: Any, precision: str) -> list[Any]:
        """A plain linear, and where this torch has it one whose weight is packed for the matrix unit."""
        torch = self._torch
        ways = [lambda x: torch.nn.functional.linear(x, weight)]
        if precision == "bf16" and torch.backends.mkldnn.is_available():
            try:
                packed = torch.ops.mkldnn._reorder_linear_weight(weight)
                torch.ops.mkldnn._linear_pointwise(weight[:1], packed, None, "none", [], "")
            except (AttributeError, RuntimeError):
                return ways
            ways.append(lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""))
        return ways


@dataclass(slots=True)
class Machine:
    """Peaks are the best seen in any round: other work on the machine can only lower them."""

    threads: int
    body_parameters: int
    precision: str = "bf16"
    peaks: dict[str, float] = field(default_factory=dict)

    def measure(self, child: Child) -> None:
        for precision in ("fp32", "bf16"):
            self.peaks[precision] = max(self.peaks.get(precision, 0.0), child.call("measure", precision))

    @property
    def floor_tokens_per_s(self) -> float:
        """Tokens the matrices alone allow: two operations for each parameter, nothing else counted."""
        return self.peaks[self.precision] / (2 * self.body_parameters)

    def floor_items_per_s(self, new_tokens: float) -> float:
        """Items a second when each brings ``new_tokens`` tokens (mean) and the fixed prompt is cached."""
        return self.floor_tokens_per_s / new_tokens

    def as_json(self, new_tokens: float) -> dict[str, Any]:
        return {
            "cpu": cpu_name(),
            "platform": platform.platform(),
            "python": platform.python_version(),
            "threads": self.threads,
            "peak_fp32_gflops": round(self.peaks["fp32"] / 1e9, 1),
            "peak_bf16_gflops": round(self.peaks["bf16"] / 1e9, 1),
            "body_parameters": self.body_parameters,
            "floor_precision": self.precision,
            "floor_tokens_per_s": round(self.floor_tokens_per_s, 1),
            "new_tokens_per_item": round(new_tokens, 2),
            "floor_items_per_s": round(self.floor_items_per_s(new_tokens), 2) if new_tokens else None,
            "load_average": round(os.getloadavg()[0], 2),
        }


def cpu_name() -> str:
    """The processor's model name where the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
