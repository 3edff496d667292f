"""bf16 on a CPU with the weights laid out once for the matrix unit, and the MLP's activation fused in.

``nn.Linear`` hands oneDNN a plain matrix, which it rearranges at every call. Packing it once is what
``torch.compile`` does when it freezes a model; doing only that needs no compiler and no warm-up. The fused
operators are the ones inductor emits (``torch._inductor.fx_passes.mkldnn_fusion``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.activations import SiLUActivation


def can_pack(device: torch.device, precision: str) -> bool:
    """Whether this torch has oneDNN's packed bf16 linear for this device."""
    return (
        device.type == "cpu"
        and precision == "bf16"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


class PackedLinear(nn.Module):
    """A linear layer whose weight is kept in oneDNN's own layout. Inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.data)
        self._bias = linear.bias.data if linear.bias is not None else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.activated(x, "none")

    def activated(self, x: torch.Tensor, activation: str) -> torch.Tensor:
        """``activation(x W^T + b)`` with oneDNN's name for the activation."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, activation, [], ""
        )
        return result

    def weight_rows(self) -> torch.Tensor:
        """The weight as a plain matrix ``[out, in]``: a copy, for the rare look at single rows."""
        rows: torch.Tensor = self._weight.to_dense()
        return rows

    def times(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """``(x W^T + b) * factor``, element by element."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, factor, self._weight, self._bias, "mul"
        )
        return result


class PackedGatedMLP(nn.Module):
    """``down(silu(gate(x)) * up(x))``, the MLP of the Llama and Qwen families, in three kernels."""

    def __init__(self, gate: Any, up: Any, down: Any) -> None:
        super().__init__()
        self.gate_proj = PackedLinear(gate)
        self.up_proj = PackedLinear(up)
        self.down_proj = PackedLinear(down)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gated = self.gate_proj.activated(x, "swish")
        result: torch.Tensor = self.down_proj(self.up_proj.times(x, gated))
        return result


def pack(model: PreTrainedModel) -> int:
    """Replace the linear layers of ``model`` in place; returns how many. The plain weights are freed."""
    return _pack_children(model)


def output_rows(model: PreTrainedModel, tokens: Sequence[int]) -> torch.Tensor:
    """The rows of the output matrix that score ``tokens``, as float32 ``[tokens, hidden]``."""
    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    weight = head.weight_rows() if isinstance(head, PackedLinear) else head.weight
    rows: torch.Tensor = weight[torch.tensor(tokens, device=weight.device)].float()
    return rows


def output_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits over the whole vocabulary, float32."""
    logits: torch.Tensor = model.get_output_embeddings()(hidden)  # type: ignore[no-untyped-call]
    return logits.float()


def _pack_children(parent: nn.Module) -> int:
    packed = 0
    for name, child in list(parent.named_children()):
        if _is_gated_mlp(child):
            setattr(parent, name, PackedGatedMLP(child.gate_proj, child.up_proj, child.down_proj))
            packed += 3
        elif type(child) is nn.Linear:
            setattr(parent, name, PackedLinear(child))
            packed += 1
        else:
            packed += _pack_children(child)
    return packed


def _is_gated_mlp(module: Any) -> bool:
    parts = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    silu = isinstance(getattr(module, "act_fn", None), nn.SiLU | SiLUActivation)
    return silu and all(type(part) is nn.Linear for part in parts)
