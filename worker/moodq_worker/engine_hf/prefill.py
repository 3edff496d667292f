"""One forward pass over new tokens on top of what a KV cache holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from moodq_worker.engine_hf.fused_layers import Rows, fused_layer, grouped_mask, padded
from moodq_worker.engine_hf.kv_cache import PrefillCache, Prefix


def forward(
    model: PreTrainedModel,
    ids: torch.Tensor,
    cache: Cache,
    seen: torch.Tensor,
    positions: torch.Tensor,
    real: torch.Tensor | None = None,
    keep: torch.Tensor | None = None,
) -> torch.Tensor:
    """Hidden states of new tokens ``ids``, ``[rows, width]``.

    ``real``, ``[rows, width]``, is False where a row is only padded: a column no other token may see, whose
    hidden state is not computed where that can be spared. ``seen`` is ``[rows or 1, width, cache columns]``,
    True where a token sees a column; ``positions`` is ``[rows or 1, width]``.

    Gives ``[rows, width, hidden]``, or with ``keep`` (``[rows, kept]``, columns) ``[rows, kept, hidden]``.
    """
    device = model.device
    rows, width = ids.shape
    shared: dict[str, Any] = {
        "past_key_values": cache,
        "use_cache": True,
        "attention_mask": grouped_mask(model, seen.to(device)),
    }
    hidden: torch.Tensor
    if fused_layer(model) is None:
        shared["position_ids"] = positions.to(device)
        hidden = model.base_model(input_ids=ids.to(device), **shared).last_hidden_state
        return hidden if keep is None else hidden[torch.arange(rows, device=device)[:, None], keep.to(device)]
    layout = Rows(rows, width) if real is None else Rows.of(real)
    shared |= {"layout": layout, "position_ids": _one_row(layout, positions.expand(rows, width))}
    flat = _one_row(layout, ids)
    if keep is None:
        out: torch.Tensor = model.base_model(input_ids=flat, **shared).last_hidden_state[0]
        out = out[: rows * width] if layout.cells is None else out[layout.cells]
        return out.view(rows, width, -1)
    count = keep.numel()
    cells = (torch.arange(rows)[:, None] * width + keep).reshape(-1)
    kept = torch.zeros(padded(count), dtype=torch.long)
    kept[:count] = cells if layout.cells is None else layout.cells[cells]
    hidden = model.base_model(input_ids=flat, keep=kept, **shared).last_hidden_state
    return hidden[0, :count].view(rows, -1, hidden.shape[-1])


def _one_row(layout: Rows, cells: torch.Tensor) -> torch.Tensor:
    """The values of the real ``cells``, ``[rows, width]``, one after another, then zeros."""
    values = cells.reshape(-1) if layout.tokens is None else cells.reshape(-1)[layout.tokens]
    flat = torch.zeros(1, padded(len(values)), dtype=torch.long)
    flat[0, : len(values)] = values
    return flat


def last_hidden(
    model: PreTrainedModel, cache: PrefillCache, ids: torch.Tensor, ends: torch.Tensor
) -> torch.Tensor:
    """Hidden states ``[rows, hidden]`` at column ``ends`` of right-padded ``ids``, which follow the rows'
    prefixes. With causal attention nothing before the padding sees it."""
    columns = torch.arange(ids.shape[1])
    positions = cache.pasts[:, None] + columns[None]
    seen = torch.arange(cache.columns)[None, None] <= positions[:, :, None]
    real = columns[None] <= ends[:, None]
    return forward(model, ids, cache, seen, positions, real, ends[:, None])[:, 0]


@torch.inference_mode()
def extended(model: PreTrainedModel, prefix: Prefix, tokens: Sequence[int]) -> Prefix:
    """``prefix`` with ``tokens`` after it, for several texts that begin with both."""
    cache = PrefillCache([prefix], len(tokens), keep=True)
    last_hidden(model, cache, torch.tensor([list(tokens)]), torch.tensor([len(tokens) - 1]))
    total = prefix.tokens + len(tokens)
    return Prefix(tuple((keys[None], values[None]) for keys, values in cache.row(0, total)), total)
