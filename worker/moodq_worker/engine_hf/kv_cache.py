"""KV caches: a fixed prefix computed once and shared by every text, and one that grows while decoding.

Shapes follow Transformers: keys and values per layer are ``[rows, kv_heads, tokens, head_dim]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

#: One layer's keys and values.
LayerKV = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Prefix:
    """The keys and values of a fixed prompt, one row; ``tokens`` is its length."""

    layers: tuple[LayerKV, ...]
    tokens: int

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for layer in self.layers for tensor in layer)

    def expanded(self, rows: int) -> DynamicCache:
        """A cache of ``rows`` rows that all begin with this prefix; nothing is copied until it grows."""
        return DynamicCache(
            [(keys.expand(rows, -1, -1, -1), values.expand(rows, -1, -1, -1)) for keys, values in self.layers]
        )


@torch.inference_mode()
def compute_prefix(model: PreTrainedModel, tokens: tuple[int, ...]) -> Prefix:
    """Prefill ``tokens`` and keep what the attention needs of them."""
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([tokens], device=model.device)
    model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    return Prefix(layers=layers_of(cache), tokens=len(tokens))


def layers_of(cache: Cache) -> tuple[LayerKV, ...]:
    """The keys and values of every layer of a dynamic cache."""
    layers = cast("list[DynamicLayer]", cache.layers)
    return tuple((cast("torch.Tensor", layer.keys), cast("torch.Tensor", layer.values)) for layer in layers)


def right_aligned(layers: list[list[LayerKV]], lengths: list[int], width: int) -> list[LayerKV]:
    """Stack rows of different lengths into one cache whose rows all end at column ``width``.

    ``layers[row][layer]`` holds one row's ``[kv_heads, lengths[row], head_dim]``; the columns before a row
    begins are zero and must be masked.
    """
    stacked: list[LayerKV] = []
    for index in range(len(layers[0])):
        pair = []
        for part in (0, 1):
            first = layers[0][index][part]
            heads, _, dim = first.shape
            out = first.new_zeros(len(layers), heads, width, dim)
            for row, kv in enumerate(layers):
                out[row, :, width - lengths[row] :] = kv[index][part]
            pair.append(out)
        stacked.append((pair[0], pair[1]))
    return stacked
