"""Decoder layers of the Llama and Qwen2 families with fewer, larger kernels, for packed weights on a CPU.

At the batch sizes of a label (hundreds of tokens) a third of Transformers' time goes into small operators
between the matrix products. A fused layer does the same arithmetic with the query, key and value projections
in one product, activation and residual inside the projections' kernels, the rotary embedding applied to
queries and keys at once, and grouped query heads attended as extra query rows instead of copied keys.

The tokens of all rows lie one after another without padding between them; only the attention sees them as
rows of one width (``Rows``). What lies behind the last one pads to one of few counts (``padded``): oneDNN
compiles its kernels for a number of tokens when it first meets it, which takes milliseconds each, so few
numbers must do. In the last layer only the tokens named in ``keep`` are computed after the attention: a label
needs one hidden state per text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, cast

import torch
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import Cache, PreTrainedModel
from transformers.activations import SiLUActivation

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP_PROJECTIONS = ("gate_proj", "up_proj", "down_proj")
#: Tokens that go through the MLP at once: beyond, what lies between its products leaves the cache and the
#: same products take up to half as long again (docs/adr/006).
MLP_TOKENS = 512


class Projection(Protocol):
    """A linear layer with what follows it in the same kernel."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...

    def silu(self, x: torch.Tensor) -> torch.Tensor: ...

    def times(self, x: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
        """May write into ``factor``."""
        ...

    def plus(self, x: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
        """May write into ``residual``."""
        ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What a fused layer is made of. ``enter`` brings an activation into the form the projections take; the
    norms give that form already."""

    qkv: Projection
    o: Projection
    gate: Projection
    up: Projection
    down: Projection
    input_norm: Callable[[torch.Tensor], torch.Tensor]
    mlp_norm: Callable[[torch.Tensor], torch.Tensor]
    enter: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Rows:
    """How the tokens that lie one after another make ``rows`` of ``width`` for the attention. Both indices
    are None when every row is full.

    ``cells``, ``[rows * width]``: the token of each cell, any for an empty one, which nobody may see.
    ``tokens``: the cell of each token.
    """

    rows: int
    width: int
    cells: torch.Tensor | None = None
    tokens: torch.Tensor | None = None

    @classmethod
    def of(cls, real: torch.Tensor) -> Rows:
        """From ``real``, ``[rows, width]``, True where a row holds a token."""
        rows, width = real.shape
        if bool(real.all()):
            return cls(rows, width)
        flat = real.reshape(-1)
        cells = (flat.cumsum(0) - 1).clamp_(min=0)
        return cls(rows, width, cells.masked_fill_(~flat, 0), flat.nonzero()[:, 0])


class FusedDecoderLayer(nn.Module):
    """Stands in for one decoder layer; takes the arguments Transformers' model passes to its layers.

    ``attention_mask`` must be additive: ``[rows or 1, 1, groups * queries, keys]`` as ``grouped_mask`` makes,
    ``[1, 1, queries, keys]`` with a paged cache, or None for plain causal attention without a past.
    """

    def __init__(self, layer: Any, parts: Parts, *, last: bool) -> None:
        super().__init__()
        attention = layer.self_attn
        self.layer_idx: int = attention.layer_idx
        self.groups: int = attention.num_key_value_groups
        self._last = last
        self._head_dim: int = attention.head_dim
        self._scaling: float = attention.scaling
        self._kv_heads = attention.k_proj.out_features // self._head_dim
        self._q_heads = attention.q_proj.out_features // self._head_dim
        self.parts = parts

    def forward(
        self,
        hidden_states: torch.Tensor,
        *,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        layout: Rows | None = None,
        keep: torch.Tensor | None = None,
        cache: Any = None,
        **others: Any,
    ) -> torch.Tensor:
        """``hidden_states`` is ``[1, tokens, hidden]``: what ``layout`` says, then padding; without a layout,
        one row. ``keep`` names the tokens to go on with after the last attention. ``cache`` is the paged one
        of continuous batching, which gives one row of all requests and finds its places in ``others``."""
        parts = self.parts
        layout = layout or Rows(1, hidden_states.shape[1])

        def remember(key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            both: tuple[torch.Tensor, torch.Tensor] = key, value
            if cache is not None:
                both = cache.update(key, value, self.layer_idx, others)
            elif past_key_values is not None:
                both = past_key_values.update(key, value, self.layer_idx)
            return both

        heads = self._attend(hidden_states, layout, position_embeddings, attention_mask, remember)
        if self._last and keep is not None:
            heads, hidden_states = heads[:, keep], hidden_states[:, keep]
        hidden_states = parts.o.plus(parts.enter(heads), hidden_states)
        pieces = hidden_states.split(MLP_TOKENS, dim=1)
        return self._mlp(pieces[0]) if len(pieces) == 1 else torch.cat([*map(self._mlp, pieces)], dim=1)

    def _mlp(self, hidden_states: torch.Tensor) -> torch.Tensor:
        parts = self.parts
        x = parts.mlp_norm(hidden_states)
        return parts.down.plus(parts.enter(parts.up.times(x, parts.gate.silu(x))), hidden_states)

    def _attend(
        self,
        hidden_states: torch.Tensor,
        layout: Rows,
        position_embeddings: tuple[torch.Tensor, torch.Tensor],
        mask: torch.Tensor | None,
        remember: Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
    ) -> torch.Tensor:
        rows, queries = layout.rows, layout.width
        heads = self.parts.qkv(self.parts.input_norm(hidden_states))[0]
        _rotate(heads, self._q_heads + self._kv_heads, *position_embeddings)
        heads = heads[: rows * queries] if layout.cells is None else heads.index_select(0, layout.cells)
        heads = heads.view(rows, queries, -1, self._head_dim).transpose(1, 2)
        query, key, value = heads.split([self._q_heads, self._kv_heads, self._kv_heads], dim=1)
        key, value = remember(key, value)
        if mask is None or mask.shape[2] == queries:
            out = scaled_dot_product_attention(
                query,
                key,
                value,
                attn_mask=mask,
                is_causal=mask is None and queries > 1,
                scale=self._scaling,
                enable_gqa=self.groups > 1,
            )
        else:
            grouped = query.reshape(rows, self._kv_heads, self.groups * queries, self._head_dim)
            out = scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=self._scaling)
            out = out.view(rows, self._q_heads, queries, self._head_dim)
        by_cell = out.transpose(1, 2).reshape(rows * queries, -1)
        flat = by_cell.new_empty(1, hidden_states.shape[1], by_cell.shape[1])
        if layout.tokens is None:
            flat[0, : len(by_cell)] = by_cell
            flat[0, len(by_cell) :] = 0
        else:
            count = len(layout.tokens)
            torch.index_select(by_cell, 0, layout.tokens, out=flat[0, :count])
            flat[0, count:] = 0
        return flat


class RMSNorm(nn.Module):
    """Root mean square norm; the sum of squares in float32, the scaling in the model's precision."""

    def __init__(self, norm: Any, weight: torch.Tensor | None = None) -> None:
        super().__init__()
        self._weight: torch.Tensor = (norm.weight.data.clone() if weight is None else weight).to(
            norm.weight.dtype
        )
        self._eps: float = norm.variance_epsilon
        self._root: float = norm.weight.shape[0] ** 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32) / self._root
        return x * torch.rsqrt(length * length + self._eps).to(x.dtype) * self._weight


def padded(tokens: int) -> int:
    """The count of tokens that ``tokens`` are padded to."""
    if tokens <= 16:
        return 1 << (tokens - 1).bit_length()
    step = 16 if tokens <= 128 else 32 if tokens <= 512 else 64
    return -(-tokens // step) * step


def layers_to_fuse(model: PreTrainedModel) -> list[Any] | None:
    """The decoder layers, where all of them are of a kind that ``FusedDecoderLayer`` knows."""
    layers: Any = getattr(model.base_model, "layers", None)
    if layers is None or not all(_can_fuse(layer) for layer in layers):
        return None
    return list(layers)


def put_layers(model: PreTrainedModel, layers: list[FusedDecoderLayer]) -> None:
    cast("Any", model.base_model).layers = nn.ModuleList(layers)


def fused_layer(model: PreTrainedModel) -> FusedDecoderLayer | None:
    """The first layer of a fused model; None when it is not fused."""
    layers: Any = getattr(model.base_model, "layers", None)
    return layers[0] if layers and isinstance(layers[0], FusedDecoderLayer) else None


def grouped_mask(model: PreTrainedModel, seen: torch.Tensor) -> Any:
    """The attention mask of a forward pass from ``seen``, ``[rows or 1, queries, keys]``, True where a query
    sees a key: for fused layers additive and repeated per query group, else as Transformers takes it."""
    layer = fused_layer(model)
    if layer is None:
        return seen[:, None]
    additive = torch.zeros(seen.shape, dtype=model.dtype, device=seen.device)
    additive.masked_fill_(~seen, torch.finfo(model.dtype).min)
    repeated = additive[:, None].repeat(1, 1, layer.groups, 1)
    return dict.fromkeys(set(model.config.layer_types), repeated)


def joined(*linears: Any) -> nn.Linear:
    """One linear layer whose output is that of ``linears`` side by side."""
    first = linears[0]
    out = sum(linear.out_features for linear in linears)
    whole = nn.Linear(
        first.in_features, out, bias=first.bias is not None, dtype=first.weight.dtype, device="meta"
    )
    whole.weight = nn.Parameter(torch.cat([linear.weight.data for linear in linears]), requires_grad=False)
    if first.bias is not None:
        whole.bias = nn.Parameter(torch.cat([linear.bias.data for linear in linears]), requires_grad=False)
    return whole


def _can_fuse(layer: Any) -> bool:
    attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
    if attention is None or mlp is None:
        return False
    linears = [getattr(attention, name, None) for name in PROJECTIONS]
    linears += [getattr(mlp, name, None) for name in MLP_PROJECTIONS]
    names = {name for name, _ in attention.named_children()}
    return (
        all(type(linear) is nn.Linear for linear in linears)
        # Families that norm their heads or slide their window stay as they are.
        and names <= set(PROJECTIONS)
        and getattr(attention, "sliding_window", None) is None
        and isinstance(mlp.act_fn, nn.SiLU | SiLUActivation)
        and {name for name, _ in layer.named_children()}
        == {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
    )


def _rotate(tokens: torch.Tensor, heads: int, cos: torch.Tensor, sin: torch.Tensor) -> None:
    """Rotary embedding (Su et al. 2021, in the half-split layout) of the first ``heads`` heads of ``tokens``,
    ``[tokens, all heads * head_dim]``, in place. ``cos`` and ``sin`` are ``[1, tokens, head_dim]``."""
    dim = cos.shape[-1]
    half = dim // 2
    rotated = tokens[:, : heads * dim].view(len(tokens), heads, dim)
    before = rotated.clone()
    cos, sin = cos[0, :, None], sin[0, :, None]
    rotated.mul_(cos)
    rotated[..., :half].addcmul_(before[..., half:], sin[..., :half], value=-1)
    rotated[..., half:].addcmul_(before[..., :half], sin[..., half:])
