"""The KV caches of fixed prompts: computed when first needed, kept as long as there is room.

They are found by their tokens, so a prompt that two tasks share is there once, and one that an edited task
file leaves as it was is still there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container

from transformers import PreTrainedModel

from moodq_worker.engine_hf.kv_cache import Prefix, compute_prefix


class Prefixes:
    """``max_tokens`` bounds all of them; the least recently used go first. The newest always stays."""

    def __init__(self, model: PreTrainedModel, max_tokens: int) -> None:
        self._model = model
        self._max_tokens = max_tokens
        self._kept: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def tokens(self) -> int:
        return sum(map(len, self._kept))

    def get(self, tokens: tuple[int, ...]) -> Prefix:
        """The KV cache of ``tokens``; one forward pass over them when it is not kept."""
        if (prefix := self._kept.get(tokens)) is None:
            prefix = self._kept[tokens] = compute_prefix(self._model, tokens)
            while len(self._kept) > 1 and self.tokens > self._max_tokens:
                self._kept.popitem(last=False)
        self._kept.move_to_end(tokens)
        return prefix

    def keep(self, wanted: Container[tuple[int, ...]]) -> None:
        """Free all but those of ``wanted``."""
        for tokens in [tokens for tokens in self._kept if tokens not in wanted]:
            del self._kept[tokens]
