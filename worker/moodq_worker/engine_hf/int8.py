"""int8 weights and activations on a CPU: half the bytes and twice the arithmetic of bf16, on the same model.

What keeps the accuracy (docs/adr/007):

- The fixed prompts are prefilled with activations in three int8 terms (``Int8Linear.precise``), which is as
  exact as bf16. The activations a thousand times larger than the rest, which ruin one scale per tensor, are
  those of a prompt's first tokens; new tokens have none.
- What remains uneven between channels is moved into the weights (SmoothQuant, Xiao et al. 2023), folded into
  the norm, the value or the up projection before, so that it costs nothing when running.
- Weights have one scale per output channel; activations one per tensor, measured once (``calibrate``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

from moodq_worker.engine_hf.fused_layers import (
    FusedDecoderLayer,
    Parts,
    RMSNorm,
    fused_layer,
    joined,
    layers_to_fuse,
    put_layers,
)

LEVELS = 127
#: How the unevenness between channels is shared: 0 leaves it to the activations, 1 gives it to the weights.
MIGRATION = 0.35
PRECISE_TERMS = 3
#: A matrix is quantized in pieces, so that its float32 copy is never whole in memory.
ROWS_AT_ONCE = 4096

#: Largest absolute activation per input channel, by what reads it: q/k/v, o, gate/up or down of a layer.
LayerRange = dict[Literal["qkv", "o", "mlp", "down"], torch.Tensor]


class Int8Linear(nn.Module):
    """A linear layer over int8 activations whose scale is already in the weights: a unit step of the input
    is one. Gives bf16. A floating input, in the same units, is computed precisely."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._scales = weight.abs().amax(dim=1).float().clamp(min=1e-12) / LEVELS
        levels = torch.empty(weight.shape, dtype=torch.int8)
        for start in range(0, self.out_features, ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            levels[rows] = torch.round(weight[rows].float() / self._scales[rows, None])
        self._weight = torch.ops.onednn.qlinear_prepack(levels, None)
        self._zeros = torch.zeros(self.out_features, dtype=torch.int32)
        self._bias = bias.float() if bias is not None else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self._product(x, "none") if x.dtype == torch.int8 else self.precise(x)

    def silu(self, x: torch.Tensor) -> torch.Tensor:
        if x.dtype == torch.int8:
            return self._product(x, "swish")
        return nn.functional.silu(self.precise(x))

    def times(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        return factor.mul_(self(x))

    def plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        if x.dtype != torch.int8:
            return residual + self.precise(x)
        levels, zero = _for_this_cpu(x)
        result: torch.Tensor = torch.ops.onednn.qlinear_pointwise.binary(
            levels, 1.0, zero, self._weight, self._scales, self._zeros, residual, self._bias,
            1.0, 0, torch.bfloat16, 1.0, 0, "sum", 1.0, "none", [], "",
        )  # fmt: skip
        return result

    def precise(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` as a sum of int8 tensors of ever finer scale: exact to the activations' own precision."""
        rest = x.float()
        total = torch.zeros(*x.shape[:-1], self.out_features)
        for _ in range(PRECISE_TERMS):
            scale = rest.abs().amax().clamp(min=1e-12) / LEVELS
            levels = torch.round(rest / scale)
            total += self._product(levels.to(torch.int8), "none", bias=False, dtype=torch.float32) * scale
            rest = rest - levels * scale
        return (total if self._bias is None else total + self._bias).to(torch.bfloat16)

    def _product(
        self, x: torch.Tensor, activation: str, *, bias: bool = True, dtype: torch.dtype = torch.bfloat16
    ) -> torch.Tensor:
        levels, zero = _for_this_cpu(x)
        result: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            levels, 1.0, zero, self._weight, self._scales, self._zeros, self._bias if bias else None,
            1.0, 0, dtype, activation, [], "",
        )  # fmt: skip
        return result


def _for_this_cpu(levels: torch.Tensor) -> tuple[torch.Tensor, int]:
    """int8 ``levels`` as this CPU's product takes them, and what stands for zero there. Without a matrix unit
    x86 multiplies unsigned by signed only (VNNI); oneDNN leaves signed ones to a loop, 1,000 times slower."""
    return (levels, 0) if takes_signed() else (levels.view(torch.uint8) ^ 0x80, 128)


@cache
def takes_signed() -> bool:
    """Whether oneDNN has a fast product of signed by signed int8 on this CPU."""
    capabilities = torch.cpu.get_capabilities()
    return capabilities.get("architecture") != "x86_64" or bool(capabilities.get("amx_int8"))


class Int8Output(nn.Module):
    """The output matrix in int8, for bf16 models too: a step of a reply reads all of it to choose one token.
    The hidden states that reach it are few, so each gets a scale of its own."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self._linear = Int8Linear(linear.weight.data, linear.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / LEVELS
        levels = torch.round(x / scale).clamp_(-LEVELS, LEVELS).to(torch.int8)
        product: torch.Tensor = self._linear(levels)
        return product * scale


class _Gate:
    """Whether activations are rounded to int8 (the rule) or kept for the precise products."""

    def __init__(self) -> None:
        self.rounds = True

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x.round_().clamp_(-LEVELS, LEVELS).to(torch.int8) if self.rounds else x


@contextmanager
def precisely(model: PreTrainedModel) -> Iterator[None]:
    """Within, an int8 model keeps its activations' precision; other models are as ever."""
    layer = fused_layer(model)
    gate = layer.parts.enter if layer is not None else None
    if not isinstance(gate, _Gate):
        yield
        return
    before, gate.rounds = gate.rounds, False
    try:
        yield
    finally:
        gate.rounds = before  # one such pass may run between the layers of another


def quantize(model: PreTrainedModel, ranges: list[LayerRange]) -> None:
    """Replace the decoder layers and the output matrix of ``model`` in place by int8 ones."""
    layers = layers_to_fuse(model)
    assert layers is not None  # noqa: S101 - `calibrate` found them
    gate = _Gate()
    fused = []
    for index, (layer, seen) in enumerate(zip(layers, ranges, strict=True)):
        parts = _int8_parts(layer, seen, gate)
        fused.append(FusedDecoderLayer(layer, parts, last=index == len(layers) - 1))
        layer.self_attn = layer.mlp = None
    put_layers(model, fused)


def _int8_parts(layer: Any, seen: LayerRange, gate: _Gate) -> Parts:
    attention, mlp = layer.self_attn, layer.mlp
    qkv = joined(attention.q_proj, attention.k_proj, attention.v_proj)
    qkv_weight, qkv_bias = qkv.weight.data.float(), qkv.bias.data.float() if qkv.bias is not None else None
    gate_weight, up_weight = mlp.gate_proj.weight.data.float(), mlp.up_proj.weight.data.float()
    o_weight, down_weight = attention.o_proj.weight.data.float(), mlp.down_proj.weight.data.float()

    qkv_units = _units(seen["qkv"], qkv_weight)
    mlp_units = _units(seen["mlp"], torch.cat([gate_weight, up_weight]))
    down_units = _units(seen["down"], down_weight)
    o_units = _shared_by_group(_units(seen["o"], o_weight), attention)

    # The inputs of o and down come out of v and up in their units: fold them there.
    values = attention.v_proj.out_features
    value_units = _per_value(o_units, attention)
    v_rows = slice(qkv_weight.shape[0] - values, None)
    qkv_weight[v_rows] /= value_units[:, None]
    if qkv_bias is not None:
        qkv_bias[v_rows] /= value_units
    up_weight = up_weight / down_units[:, None]
    return Parts(
        qkv=Int8Linear(qkv_weight * qkv_units, qkv_bias),
        o=Int8Linear(o_weight * o_units, attention.o_proj.bias),
        gate=Int8Linear(gate_weight * mlp_units, mlp.gate_proj.bias),
        up=Int8Linear(up_weight * mlp_units, None),
        down=Int8Linear(down_weight * down_units, mlp.down_proj.bias),
        input_norm=_into(gate, RMSNorm(layer.input_layernorm, layer.input_layernorm.weight.data / qkv_units)),
        mlp_norm=_into(
            gate,
            RMSNorm(layer.post_attention_layernorm, layer.post_attention_layernorm.weight.data / mlp_units),
        ),
        enter=gate,
    )


def _units(seen: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """What one int8 step of each input channel stands for, ``[in]``."""
    seen = seen.clamp(min=seen.max() * 1e-4 + 1e-12)
    smooth = seen**MIGRATION / weight.abs().amax(dim=0).clamp(min=1e-6) ** (1 - MIGRATION)
    return smooth * ((seen / smooth).max() / LEVELS)


def _shared_by_group(units: torch.Tensor, attention: Any) -> torch.Tensor:
    """The same unit for all query heads that read one value head: ``[q_heads * head_dim]``."""
    groups, dim = attention.num_key_value_groups, attention.head_dim
    largest = units.view(-1, groups, dim).amax(dim=1, keepdim=True)
    return largest.expand(-1, groups, -1).reshape(-1)


def _per_value(units: torch.Tensor, attention: Any) -> torch.Tensor:
    return units.view(-1, attention.num_key_value_groups, attention.head_dim)[:, 0].reshape(-1)


def _into(gate: _Gate, norm: RMSNorm) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: gate(norm(x))
