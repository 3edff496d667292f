"""KV caches: a fixed prefix computed once, a prefill on top of it, and the rows of a running decode.

Shapes follow Transformers: keys and values per layer are ``[rows, kv_heads, columns, head_dim]``. The number
of columns is always a multiple of ``COLUMNS``: the attention kernels for matrix units run three times faster
then (measured, AMX), and the columns that hold nothing are masked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from moodq_worker.engine_hf.int8 import precisely

#: One layer's keys and values.
LayerKV = tuple[torch.Tensor, torch.Tensor]
COLUMNS = 32


def whole_columns(tokens: int) -> int:
    """Columns allocated for ``tokens``: the next multiple of ``COLUMNS``."""
    return -(-tokens // COLUMNS) * COLUMNS


@dataclass(frozen=True, slots=True)
class Prefix:
    """The keys and values of a fixed prompt, one row; ``tokens`` is its length."""

    layers: tuple[LayerKV, ...]
    tokens: int

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for layer in self.layers for tensor in layer)


@torch.inference_mode()
def compute_prefix(model: PreTrainedModel, tokens: tuple[int, ...]) -> Prefix:
    """Prefill ``tokens`` and keep what the attention needs of them."""
    cache = DynamicCache(config=model.config)
    ids = torch.tensor([tokens], device=model.device)
    with precisely(model):
        model.base_model(input_ids=ids, past_key_values=cache, use_cache=True)
    layers = cast("list[DynamicLayer]", cache.layers)
    return Prefix(tuple((layer.keys, layer.values) for layer in layers), len(tokens))  # type: ignore[misc]


class _Layer(CacheLayerMixin):
    """What a cache layer needs beside ``update`` when its owner gives positions and masks itself."""

    is_sliding = False

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.is_initialized = True

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        raise NotImplementedError("the mask is given, not derived from the cache")

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


class _PrefillLayer(_Layer):
    def __init__(self, prefix: LayerKV, columns: int, keep: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._prefix = prefix
        self._columns = columns
        self._keep = keep

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys = self._laid_out(self._prefix[0], key_states)
        values = self._laid_out(self._prefix[1], value_states)
        if self._keep:
            self.keys, self.values = keys, values
        return keys, values

    def _laid_out(self, prefix: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        rows, heads, tokens, dim = new.shape
        past = prefix.shape[2]
        out = new.new_empty(rows, heads, self._columns, dim)
        out[:, :, :past] = prefix
        out[:, :, past : past + tokens] = new
        out[:, :, past + tokens :] = 0  # a masked column weighs nothing, unless it holds a NaN
        return out


class PrefillCache(Cache):
    """Rows that begin with the same prefix and take ``width`` new tokens each, in one pass. Without ``keep``
    a layer's keys and values are gone once it has attended: labels need no more."""

    def __init__(self, prefix: Prefix, width: int, *, keep: bool) -> None:
        self.columns = whole_columns(prefix.tokens + width)
        super().__init__(layers=[_PrefillLayer(layer, self.columns, keep) for layer in prefix.layers])

    def row(self, index: int, tokens: int) -> list[LayerKV]:
        """The first ``tokens`` columns of a row, every layer: ``[kv_heads, tokens, head_dim]``."""
        layers = cast("list[_PrefillLayer]", self.layers)
        return [(layer.keys[index, :, :tokens], layer.values[index, :, :tokens]) for layer in layers]  # type: ignore[index]


class _SlotLayer(_Layer):
    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, owner: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._owner = owner

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows, columns, lengths = self._owner.rows, self._owner.columns, self._owner.lengths
        index = torch.arange(rows, device=key_states.device)
        self.keys[index, :, lengths] = key_states[:, :, 0]
        self.values[index, :, lengths] = value_states[:, :, 0]
        return self.keys[:rows, :, :columns], self.values[:rows, :, :columns]


class SlotCache(Cache):
    """The rows of a running decode: row ``i`` holds its tokens from column 0 on. Memory is allocated in
    steps, kept when rows leave, and given back when none is left. Joining copies the row that joins; leaving
    copies the last row into the hole."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.rows = 0
        self.lengths = torch.zeros(0, dtype=torch.long)
        self.columns = 0
        self._capacity = (0, 0)

    @property
    def nbytes(self) -> int:
        layers = cast("list[_SlotLayer]", self.layers)
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)

    def begin_step(self, lengths: list[int], device: torch.device) -> torch.Tensor:
        """Make room for one more token in every row, whose present lengths are given. Returns who is seen,
        ``[rows, 1, columns]``."""
        self.lengths = torch.tensor(lengths, device=device)
        self.columns = whole_columns(max(lengths) + 1)
        self._reserve(self.rows, self.columns)
        return (torch.arange(self.columns, device=device)[None] <= self.lengths[:, None])[:, None]

    def add(self, kv: list[LayerKV], tokens: int) -> None:
        """Append a row that has ``tokens`` columns."""
        if not self.layers:
            self.layers = [_SlotLayer(self) for _ in kv]
        self._reserve(self.rows + 1, whole_columns(tokens + 1), like=kv)
        for layer, (keys, values) in zip(cast("list[_SlotLayer]", self.layers), kv, strict=True):
            layer.keys[self.rows, :, :tokens] = keys
            layer.values[self.rows, :, :tokens] = values
        self.rows += 1

    def remove(self, index: int) -> None:
        """Take a row out; the last row takes its place."""
        self.rows -= 1
        if index != self.rows:
            for layer in cast("list[_SlotLayer]", self.layers):
                layer.keys[index] = layer.keys[self.rows]
                layer.values[index] = layer.values[self.rows]
        if not self.rows:
            self.layers, self._capacity = [], (0, 0)

    def _reserve(self, rows: int, columns: int, like: list[LayerKV] | None = None) -> None:
        if rows <= self._capacity[0] and columns <= self._capacity[1]:
            return
        old_rows, old_columns = self._capacity
        # More than is asked, so that a batch that grows is not copied each time.
        rows = max(old_rows, rows if rows in (1, old_rows) else min(2 * rows, rows + 8))
        columns = max(old_columns, whole_columns(columns + COLUMNS) if columns > old_columns else columns)
        for index, layer in enumerate(cast("list[_SlotLayer]", self.layers)):
            for name in ("keys", "values"):
                old = getattr(layer, name)
                pattern = old if old is not None else cast("list[LayerKV]", like)[index][0]
                grown = pattern.new_zeros(rows, pattern.shape[-3], columns, pattern.shape[-1])
                if old is not None:
                    grown[:old_rows, :, :old_columns] = old
                setattr(layer, name, grown)
        self._capacity = (rows, columns)
