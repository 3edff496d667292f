"""KV caches: a fixed prefix computed once, a prefill on top of it, and the rows of a running decode.

Shapes follow Transformers: keys and values per layer are ``[rows, kv_heads, columns, head_dim]``. The number
of columns is always a multiple of ``COLUMNS``: the attention kernels for matrix units run three times faster
then (measured, AMX), and the columns that hold nothing are masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, cast

import torch
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from moodq_worker.engine_hf.int8 import precisely

#: One layer's keys and values.
LayerKV = tuple[torch.Tensor, torch.Tensor]
COLUMNS = 32
#: Rows and columns for which a decode batch makes room at least, and beyond what is asked.
SPARE_ROWS = 32
SPARE_COLUMNS = 256


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
    """``prefixes`` are keys and values with the rows, from and to, that begin with them."""

    def __init__(self, prefixes: list[tuple[LayerKV, slice]], columns: int, keep: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._prefixes = prefixes
        self._columns = columns
        self._keep = keep

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = self._laid_out(0, key_states), self._laid_out(1, value_states)
        if self._keep:
            self.keys, self.values = keys, values
        return keys, values

    def _laid_out(self, which: int, new: torch.Tensor) -> torch.Tensor:
        rows, heads, tokens, dim = new.shape
        out = new.new_empty(rows, heads, self._columns, dim)
        for layer, own in self._prefixes:
            prefix = layer[which]
            past = prefix.shape[2]
            out[own, :, :past] = prefix
            out[own, :, past : past + tokens] = new[own]
            out[own, :, past + tokens :] = 0  # a masked column weighs nothing, unless it holds a NaN
        return out


class PrefillCache(Cache):
    """Rows that begin with ``prefixes``, one each, and take up to ``width`` new tokens in one pass. Rows with
    the same prefix should follow each other. Without ``keep`` a layer's keys and values are gone once it has
    attended: labels need no more.

    ``pasts``, ``[rows]``, are the columns each row has before its new tokens; ``[1]`` if it is the same for
    all."""

    def __init__(self, prefixes: Sequence[Prefix], width: int, *, keep: bool) -> None:
        runs, end = [], 0
        for _, run in groupby(prefixes, key=id):
            same = list(run)
            runs.append((same[0], slice(end, end + len(same))))
            end += len(same)
        pasts = [prefix.tokens for prefix in prefixes]
        self.columns = whole_columns(max(pasts) + width)
        self.pasts = torch.tensor(pasts if len(set(pasts)) > 1 else pasts[:1])
        super().__init__(
            layers=[
                _PrefillLayer([(prefix.layers[index], own) for prefix, own in runs], self.columns, keep)
                for index in range(len(prefixes[0].layers))
            ]
        )

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
    """The rows of a running decode: row ``i`` holds its tokens from column 0 on. Joining copies the row that
    joins; leaving copies the last row into the hole. Memory is given back when no row is left.

    Room is made for more rows and columns than are asked, which costs address space only: memory is not
    touched before a row uses it. What was never written may hold anything, and a NaN would show through the
    mask, so columns are cleared when they come into sight (``_sight``).
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.rows = 0
        self.lengths = torch.zeros(0, dtype=torch.long)
        self.columns = 0
        self._sight = 0
        self._capacity = (0, 0)

    @property
    def nbytes(self) -> int:
        """Of the rows' columns in sight."""
        layers = cast("list[_SlotLayer]", self.layers)
        return sum(2 * layer.keys[: self.rows, :, : self._sight].nbytes for layer in layers)

    def begin_step(self, lengths: list[int], device: torch.device) -> torch.Tensor:
        """One more token will come in every row, whose present lengths are given. Returns who is seen,
        ``[rows, 1, columns]``."""
        self.lengths = torch.tensor(lengths, device=device)
        self.columns = whole_columns(max(lengths) + 1)
        if self.columns > self._sight:
            self._clear(slice(0, self.rows), self._sight, self.columns)
            self._sight = self.columns
        return (torch.arange(self.columns, device=device)[None] <= self.lengths[:, None])[:, None]

    def reserve(self, joining: int, tokens: int, like: Prefix) -> None:
        """Make room for ``joining`` more rows, and for rows of up to ``tokens``, shaped ``like`` a prefix."""
        if not self.layers:
            self.layers = [_SlotLayer(self) for _ in like.layers]
        rows, columns = self._capacity
        if self.rows + joining > rows:
            rows = max(SPARE_ROWS, 2 * rows, self.rows + joining)
        if tokens > columns:
            columns = whole_columns(tokens + SPARE_COLUMNS)
        if (rows, columns) == self._capacity:
            return
        for layer, (pattern, _) in zip(cast("list[_SlotLayer]", self.layers), like.layers, strict=True):
            for name in ("keys", "values"):
                room = pattern.new_empty(rows, pattern.shape[-3], columns, pattern.shape[-1])
                if self.rows:
                    held = slice(0, self.rows), slice(None), slice(0, self._sight)
                    room[held] = getattr(layer, name)[held]
                setattr(layer, name, room)
        self._capacity = (rows, columns)

    def add(self, kv: list[LayerKV], tokens: int) -> None:
        """Append a row that has ``tokens`` columns, for which room was made."""
        row = self.rows
        for layer, (keys, values) in zip(cast("list[_SlotLayer]", self.layers), kv, strict=True):
            layer.keys[row, :, :tokens] = keys
            layer.values[row, :, :tokens] = values
        self.rows += 1
        if tokens > self._sight:
            self._clear(slice(0, row), self._sight, tokens)
            self._sight = tokens
        self._clear(slice(row, row + 1), tokens, self._sight)

    def remove(self, index: int) -> None:
        """Take a row out; the last row takes its place."""
        self.rows -= 1
        if index != self.rows:
            for layer in cast("list[_SlotLayer]", self.layers):
                layer.keys[index, :, : self._sight] = layer.keys[self.rows, :, : self._sight]
                layer.values[index, :, : self._sight] = layer.values[self.rows, :, : self._sight]
        if not self.rows:
            self.layers, self._capacity, self._sight = [], (0, 0), 0

    def _clear(self, rows: slice, start: int, stop: int) -> None:
        if start < stop:
            for layer in cast("list[_SlotLayer]", self.layers):
                layer.keys[rows, :, start:stop] = 0
                layer.values[rows, :, start:stop] = 0
