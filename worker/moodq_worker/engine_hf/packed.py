"""bf16 on a CPU with the weights laid out once for the matrix unit, and what follows a product fused in.

``nn.Linear`` hands oneDNN a plain matrix, which it rearranges at every call. Packing it once is what
``torch.compile`` does when it freezes a model; doing only that needs no compiler and no warm-up. The fused
operators are the ones inductor emits (``torch._inductor.fx_passes.mkldnn_fusion``).
"""

from __future__ import annotations

import torch
from torch import nn
from transformers import PreTrainedModel

from moodq_worker.engine_hf.fused_layers import (
    FusedDecoderLayer,
    Parts,
    RMSNorm,
    joined,
    layers_to_fuse,
    put_layers,
)


def can_pack(precision: str) -> bool:
    """Whether this torch has oneDNN's packed linear of this precision for this CPU."""
    return (
        precision == "bf16"
        and torch.backends.mkldnn.is_available()
        and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    )


class PackedLinear(nn.Module):
    """A linear layer whose weight is kept in oneDNN's own layout. Inference only."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self._weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.data)
        self._bias = linear.bias.data.clone() if linear.bias is not None else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, "none", [], "")
        return result

    def silu(self, x: torch.Tensor) -> torch.Tensor:
        """``silu(x W^T + b)``."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self._weight, self._bias, "swish", [], ""
        )
        return result

    def plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """``(x W^T + b) + residual``."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, residual, self._weight, self._bias, "add"
        )
        return result

    def times(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """``(x W^T + b) * factor``, element by element."""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.binary(
            x, factor, self._weight, self._bias, "mul"
        )
        return result


def fuse(model: PreTrainedModel) -> bool:
    """Replace the decoder layers of ``model`` in place by fused ones over packed weights; False, and nothing
    changed, for families the fused layer does not know."""
    layers = layers_to_fuse(model)
    if layers is None:
        return False
    fused = []
    for index, layer in enumerate(layers):
        attention, mlp = layer.self_attn, layer.mlp
        parts = Parts(
            qkv=PackedLinear(joined(attention.q_proj, attention.k_proj, attention.v_proj)),
            o=PackedLinear(attention.o_proj),
            gate=PackedLinear(mlp.gate_proj),
            up=PackedLinear(mlp.up_proj),
            down=PackedLinear(mlp.down_proj),
            input_norm=RMSNorm(layer.input_layernorm),
            mlp_norm=RMSNorm(layer.post_attention_layernorm),
            enter=lambda x: x,
        )
        fused.append(FusedDecoderLayer(layer, parts, last=index == len(layers) - 1))
        layer.self_attn = layer.mlp = None  # the plain weights are freed layer by layer
    put_layers(model, fused)
    return True


def pack(model: PreTrainedModel) -> int:
    """Replace the linear layers of ``model`` in place; returns how many. The plain weights are freed."""
    return _pack_children(model)


def output_logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Logits over the whole vocabulary, float32."""
    logits: torch.Tensor = model.get_output_embeddings()(hidden)
    return logits.float()


def _pack_children(parent: nn.Module) -> int:
    packed = 0
    for name, child in list(parent.named_children()):
        if type(child) is nn.Linear:
            setattr(parent, name, PackedLinear(child))
            packed += 1
        else:
            packed += _pack_children(child)
    return packed
