"""One forward pass over new tokens on top of what a KV cache holds."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Cache, PreTrainedModel

from moodq_worker.engine_hf.fused_layers import fused_layer, grouped_mask, padded
from moodq_worker.engine_hf.kv_cache import PrefillCache


def forward(
    model: PreTrainedModel,
    ids: torch.Tensor,
    cache: Cache,
    seen: torch.Tensor,
    positions: torch.Tensor,
    keep: torch.Tensor | None = None,
) -> torch.Tensor:
    """Hidden states of new tokens ``ids``, ``[rows, width]``.

    ``seen`` is ``[rows or 1, width, cache columns]``, True where a token sees a column; ``positions`` is
    ``[rows or 1, width]``. Gives ``[rows, width, hidden]``, or with ``keep`` (``[rows, kept]``, columns)
    ``[rows, kept, hidden]``.
    """
    device = model.device
    rows, width = ids.shape
    shared: dict[str, Any] = {
        "past_key_values": cache,
        "use_cache": True,
        "attention_mask": grouped_mask(model, seen.to(device)),
        "position_ids": positions.to(device),
    }
    hidden: torch.Tensor
    if fused_layer(model) is None:
        hidden = model.base_model(input_ids=ids.to(device), **shared).last_hidden_state
        return hidden if keep is None else hidden[torch.arange(rows, device=device)[:, None], keep.to(device)]
    flat = torch.zeros(1, padded(rows * width), dtype=torch.long)
    flat[0, : rows * width] = ids.reshape(-1)
    if keep is None:
        hidden = model.base_model(input_ids=flat, layout=(rows, width), **shared).last_hidden_state
        return hidden[0, : rows * width].view(rows, width, -1)
    count = keep.numel()
    kept = torch.zeros(padded(count), dtype=torch.long)
    kept[:count] = (torch.arange(rows)[:, None] * width + keep).reshape(-1)
    hidden = model.base_model(input_ids=flat, layout=(rows, width), keep=kept, **shared).last_hidden_state
    return hidden[0, :count].view(rows, -1, hidden.shape[-1])


def last_hidden(
    model: PreTrainedModel, cache: PrefillCache, past: int, ids: torch.Tensor, ends: torch.Tensor
) -> torch.Tensor:
    """Hidden states ``[rows, hidden]`` at column ``ends`` of right-padded ``ids``, which follow ``past``
    cached tokens. With causal attention nothing before the padding sees it."""
    width = ids.shape[1]
    seen = (torch.arange(cache.columns)[None] <= past + torch.arange(width)[:, None])[None]
    return forward(model, ids, cache, seen, past + torch.arange(width)[None], ends[:, None])[:, 0]
