"""Products of int8 on this CPU: the same numbers whichever sign it wants, and by a kernel, not by a loop."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from moodq_worker.engine_hf import int8
from moodq_worker.engine_hf.int8 import LEVELS, Int8Linear, Int8Output

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def linear(inputs: int, outputs: int) -> nn.Linear:
    torch.manual_seed(7)
    return nn.Linear(inputs, outputs).bfloat16()


@torch.inference_mode()
def test_signed_and_unsigned_activations_give_the_same_product(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = linear(64, 96)
    packed = Int8Linear(layer.weight.data, layer.bias.data)
    levels = torch.randint(-LEVELS, LEVELS + 1, (5, 64)).to(torch.int8)
    residual = torch.randn(5, 96).bfloat16()
    given = []
    for signed in (True, False):
        monkeypatch.setattr(int8, "takes_signed", lambda signed=signed: signed)
        given.append((packed(levels), packed.silu(levels), packed.plus(levels, residual.clone())))
    for signed_one, unsigned_one in zip(*given, strict=True):
        assert torch.equal(signed_one, unsigned_one)
    exact = levels.float() @ layer.weight.float().T + layer.bias.float()
    assert torch.allclose(given[1][0].float(), exact, rtol=0.02, atol=2.0)


@torch.inference_mode()
def test_a_product_runs_in_a_kernel_and_not_in_its_reference_loop() -> None:
    """The loop takes a hundred times as long as the plain product."""
    layer = linear(896, 8_192)
    packed = Int8Output(layer)
    rows = torch.randn(2, 896).bfloat16()

    def fastest(run: nn.Module) -> float:
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            run(rows)
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    assert fastest(packed) < 20 * fastest(layer)
