"""What each request of continuous batching has done to its logits: a repetition penalty on what it made, and
a grammar. The library has neither per request.

State lies in tensors of fixed place and size, so that a captured CUDA graph reads what is newest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers.generation.continuous_batching.cb_logits_processors import ContinuousBatchingLogitsProcessor

from moodq_worker.engine_hf.decode import Request

#: Tokens one request may make; the largest ``max_new_tokens`` of a task.
MAX_MADE = 1_024


class RowLogits(ContinuousBatchingLogitsProcessor):
    """``slots`` gives the slot of each request the library knows; slot 0 is nobody's and changes nothing.

    The scores of the tokens a request has made are divided by its penalty, or multiplied where they are
    negative (CTRL, Keskar et al. 2019); those of tokens that its grammar does not allow are minus infinity.
    """

    supported_kwargs: dict[str, type] = {}  # noqa: RUF012 - the library's signature
    ignored_kwargs: tuple[str, ...] = ()

    def __init__(self, requests: int, vocabulary: int, device: torch.device) -> None:
        self.slots: dict[str, int] = {}
        self._free = list(range(requests, 0, -1))
        self._requests: dict[int, Request] = {}
        self._finite = torch.ones((), dtype=torch.bool, device=device)
        self._penalty = torch.ones(requests + 1, 1, device=device)
        # The tokens made, padded with the first of them: to penalise one twice is to penalise it once.
        self._made = torch.zeros(requests + 1, MAX_MADE, dtype=torch.long, device=device)
        self._barred = torch.zeros(requests + 1, vocabulary, dtype=torch.bool, device=device)

    def slot(self, request: Request) -> int:
        """Take a slot for a request that has made nothing."""
        slot = self._free.pop()
        self._requests[slot] = request
        self._penalty[slot] = 1.0
        return slot

    def free(self, slot: int) -> None:
        if self._requests.pop(slot).constraint is not None:
            self._barred[slot] = False
        self._free.append(slot)

    def note(self, made: Sequence[tuple[int, int, int]]) -> None:
        """Tokens just made: (slot, how many before it, token)."""
        if not made:
            return
        device = self._made.device
        slots, places, tokens = torch.tensor(made, device=device).unbind(dim=1)
        first = [slot for slot, place, _ in made if place == 0]
        if first:
            begun = torch.tensor(first, device=device)
            penalties = [self._requests[slot].repetition_penalty for slot in first]
            self._penalty[begun, 0] = torch.tensor(penalties, device=device)
            self._made[begun] = tokens[places == 0][:, None]
        self._made[slots, places] = tokens

    def all_finite(self) -> bool:
        """Whether every request of the last pass had a token to choose."""
        return bool(self._finite)

    def fill_defaults(self, int32_tensor: torch.Tensor) -> None:
        int32_tensor.zero_()

    def prepare_tensor_args(self, requests_with_new_token: Sequence[Any]) -> torch.Tensor:
        slots = [self.slots.get(request.state.request_id, 0) for request in requests_with_new_token]
        for slot in slots:
            constraint = self._requests[slot].constraint if slot else None
            if constraint is not None:
                row = torch.zeros(self._barred.shape[1], device=self._barred.device)
                constraint.allow(row)
                self._barred[slot] = row == -torch.inf
        return torch.tensor(slots, dtype=torch.int32)

    def __call__(self, scores: torch.Tensor, tensor_arg: torch.Tensor) -> torch.Tensor:
        slots = tensor_arg[: scores.shape[0]].long()
        made, penalty = self._made[slots], self._penalty[slots]
        seen = scores.gather(1, made)
        scores = scores.scatter(1, made, torch.where(seen < 0, seen * penalty, seen / penalty))
        scores = scores.masked_fill(self._barred[slots], -torch.inf)
        self._finite.copy_(torch.isfinite(scores.amax(dim=-1)).all())
        return scores
