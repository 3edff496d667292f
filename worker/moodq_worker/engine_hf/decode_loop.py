"""Our own decode loop: texts join and leave the running batch at any step.

Rows of different lengths share one KV cache, each from column 0 on (``kv_cache.SlotCache``); a step writes
every row's next column and masks what lies behind it. Joining copies one row, leaving copies at most one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from moodq_worker.engine import DecodeEvent
from moodq_worker.engine_hf.decode import NOT_FINITE, Answer, Request, Writer
from moodq_worker.engine_hf.kv_cache import PrefillCache, Prefix, SlotCache, whole_columns
from moodq_worker.engine_hf.packed import output_logits
from moodq_worker.engine_hf.prefill import forward, last_hidden
from moodq_worker.engine_hf.prefixes import Prefixes


class DecodeLoop:
    """See ``decode.Decode``. ``kv_tokens`` bounds the KV cache: rows times the longest."""

    name = "loop"

    def __init__(self, model: PreTrainedModel, writer: Writer, prefixes: Prefixes, kv_tokens: int) -> None:
        self._model = model
        self._writer = writer
        self._prefixes = prefixes
        self._kv_tokens = kv_tokens
        self._rows: list[Answer] = []
        self._cache = SlotCache()
        self._ready: list[DecodeEvent] = []

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def model(self) -> PreTrainedModel:
        return self._model

    def fits(self, requests: Sequence[Request]) -> bool:
        all_rows = [*requests, *(row.request for row in self._rows)]
        longest = max(request.most_tokens for request in all_rows)
        return len(all_rows) == 1 or len(all_rows) * whole_columns(longest) <= self._kv_tokens

    @torch.inference_mode()
    def join(self, requests: Sequence[Request]) -> None:
        # Those of one prefix side by side, so that it is laid out once for them.
        begun = [(self._prefixes.get(request.prefix), request) for request in requests]
        begun.sort(key=lambda pair: id(pair[0]))
        prefixes, requests = [prefix for prefix, _ in begun], [request for _, request in begun]
        cache, logits = self._prefill(requests, prefixes)
        longest = max(request.most_tokens for request in requests)
        self._cache.reserve(len(requests), longest, like=prefixes[0])
        rows = [Answer(request) for request in requests]
        for place, (row, first) in enumerate(zip(rows, self._choose(rows, logits), strict=True)):
            if not self._take(row, first):
                tokens = row.request.prompt_tokens
                self._cache.add(cache.row(place, tokens), tokens)
                self._rows.append(row)

    @torch.inference_mode()
    def step(self) -> list[DecodeEvent]:
        if self._rows:
            # The newest token's keys come into the cache in this pass.
            lengths = [row.request.prompt_tokens + len(row.made) - 1 for row in self._rows]
            seen = self._cache.begin_step(lengths, self._model.device)
            ids = torch.tensor([[row.made[-1]] for row in self._rows])
            hidden = forward(self._model, ids, self._cache, seen, torch.tensor(lengths)[:, None])[:, 0]
            chosen = self._choose(self._rows, output_logits(self._model, hidden))
            ended = [
                row.request.key
                for row, token in zip(self._rows, chosen, strict=True)
                if self._take(row, token)
            ]
            for key in ended:
                self._drop(key)
        ready, self._ready = self._ready, []
        return ready

    @torch.inference_mode()
    def cancel(self, key: int) -> None:
        self._ready = [event for event in self._ready if event.key != key]
        self._drop(key)

    def clear(self) -> None:
        self._rows, self._cache, self._ready = [], SlotCache(), []

    def _prefill(
        self, requests: Sequence[Request], prefixes: Sequence[Prefix]
    ) -> tuple[PrefillCache, torch.Tensor]:
        lengths = torch.tensor([len(request.tokens) for request in requests])
        width = int(lengths.max())
        ids = torch.zeros(len(requests), width, dtype=torch.long)
        for row, request in enumerate(requests):
            ids[row, : lengths[row]] = torch.tensor(request.tokens)
        cache = PrefillCache(prefixes, width, keep=True)
        return cache, output_logits(self._model, last_hidden(self._model, cache, ids, lengths - 1))

    def _choose(self, rows: Sequence[Answer], logits: torch.Tensor) -> list[int | None]:
        """Greedy choice, or that of the row's sampler, with each row's repetition penalty on the tokens it
        already made (CTRL, Keskar et al. 2019). None for a row whose logits are NaN or infinite."""
        for index, row in enumerate(rows):
            penalty = row.request.repetition_penalty
            if penalty != 1.0 and row.made:
                seen = torch.tensor(sorted(set(row.made)), device=logits.device)
                scores = logits[index, seen]
                logits[index, seen] = torch.where(scores < 0, scores * penalty, scores / penalty)
            if row.request.constraint is not None:
                row.request.constraint.allow(logits[index])
        highest, likeliest = logits.max(dim=-1)
        usable, chosen = torch.isfinite(highest).tolist(), likeliest.tolist()
        for index, row in enumerate(rows):
            if row.request.sampler is not None and usable[index]:
                chosen[index] = row.request.sampler.draw(logits[index])
        return [token if fine else None for token, fine in zip(chosen, usable, strict=True)]

    def _take(self, row: Answer, token: int | None) -> bool:
        """Add ``token`` to ``row`` and note its event; True when the row has ended."""
        if token is None:
            self._ready.append(DecodeEvent(row.request.key, "", len(row.made), error=NOT_FINITE))
            return True
        event = self._writer.take(row, token)
        self._ready.append(event)
        return event.finish_reason is not None

    def _drop(self, key: int) -> None:
        index = next((index for index, row in enumerate(self._rows) if row.request.key == key), None)
        if index is not None:
            self._cache.remove(index)
            last = self._rows.pop()
            if index < len(self._rows):
                self._rows[index] = last
