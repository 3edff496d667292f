"""Continuous decode: texts join and leave the running batch at any step.

Rows of different lengths share one KV cache, each from column 0 on (``kv_cache.SlotCache``); a step writes
every row's next column and masks what lies behind it. Joining copies one row, leaving copies at most one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedModel

from moodq_worker.engine import DecodeEvent
from moodq_worker.engine_hf.grammar import Constraint
from moodq_worker.engine_hf.kv_cache import PrefillCache, Prefix, SlotCache, whole_columns
from moodq_worker.engine_hf.packed import output_logits
from moodq_worker.engine_hf.prefill import forward, last_hidden
from moodq_worker.engine_hf.sampling import Sampler


@dataclass(slots=True)
class Row:
    """One text being answered. ``length`` counts the tokens whose keys are in the cache; ``constraint`` says
    what may come next, if not everything may; ``sampler`` draws it, if not the likeliest is taken."""

    key: int
    max_new_tokens: int
    repetition_penalty: float
    constraint: Constraint | None = None
    sampler: Sampler | None = None
    length: int = 0
    made: list[int] = field(default_factory=list)
    shown: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """What a row starts from: a cached prefix and the tokens still to prefill."""

    prefix: Prefix
    tokens: tuple[int, ...]


class DecodeBatch:
    """The running batch. One thread only."""

    def __init__(self, model: PreTrainedModel, tokenizer: Any, stop_tokens: frozenset[int]) -> None:
        self._model = model
        self._tokenizer = tokenizer
        self._stop = stop_tokens
        self._rows: list[Row] = []
        self._cache = SlotCache()
        self._ready: list[DecodeEvent] = []

    def __len__(self) -> int:
        return len(self._rows)

    def fits(self, lengths: Sequence[int], kv_tokens: int) -> bool:
        """Whether rows that may grow to ``lengths`` keep the cache, rows times longest, within ``kv_tokens``;
        a single row in an empty batch does."""
        rows = len(self._rows) + len(lengths)
        longest = max([*lengths, *(row.length + row.max_new_tokens - len(row.made) for row in self._rows)])
        return rows == 1 or rows * whole_columns(longest) <= kv_tokens

    @torch.inference_mode()
    def join(self, prompts: Sequence[Prompt], rows: Sequence[Row]) -> None:
        """Prefill ``prompts`` in one pass and let ``rows`` take part from the next step on."""
        # Those of one prefix side by side, so that it is laid out once for them.
        order = sorted(range(len(rows)), key=lambda index: id(prompts[index].prefix))
        prompts, rows = [prompts[index] for index in order], [rows[index] for index in order]
        cache, logits = self._prefill(prompts)
        lengths = [
            len(prompt.tokens) + prompt.prefix.tokens + row.max_new_tokens
            for prompt, row in zip(prompts, rows, strict=True)
        ]
        self._cache.reserve(len(rows), max(lengths), like=prompts[0].prefix)
        for place, (prompt, row, first) in enumerate(
            zip(prompts, rows, self._choose(rows, logits), strict=True)
        ):
            row.length = prompt.prefix.tokens + len(prompt.tokens)
            if not self._take(row, first):
                self._cache.add(cache.row(place, row.length), row.length)
                self._rows.append(row)

    @torch.inference_mode()
    def step(self) -> list[DecodeEvent]:
        """One token for every row; also what ``join`` made since the last step."""
        if self._rows:
            lengths = [row.length for row in self._rows]
            seen = self._cache.begin_step(lengths, self._model.device)
            ids = torch.tensor([[row.made[-1]] for row in self._rows])
            hidden = forward(self._model, ids, self._cache, seen, torch.tensor(lengths)[:, None])[:, 0]
            chosen = self._choose(self._rows, output_logits(self._model, hidden))
            for row in self._rows:
                row.length += 1
            ended = [row.key for row, token in zip(self._rows, chosen, strict=True) if self._take(row, token)]
            for key in ended:
                self._drop(key)
        ready, self._ready = self._ready, []
        return ready

    @torch.inference_mode()
    def cancel(self, key: int) -> None:
        """Take a row out without an event; unknown keys are ignored."""
        self._ready = [event for event in self._ready if event.key != key]
        self._drop(key)

    def clear(self) -> None:
        """Forget every row, after a failed step."""
        self._rows, self._cache, self._ready = [], SlotCache(), []

    @property
    def keys(self) -> list[int]:
        return [row.key for row in self._rows]

    def _prefill(self, prompts: Sequence[Prompt]) -> tuple[PrefillCache, torch.Tensor]:
        lengths = torch.tensor([len(prompt.tokens) for prompt in prompts])
        width = int(lengths.max())
        ids = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, : lengths[row]] = torch.tensor(prompt.tokens)
        cache = PrefillCache([prompt.prefix for prompt in prompts], width, keep=True)
        return cache, output_logits(self._model, last_hidden(self._model, cache, ids, lengths - 1))

    def _choose(self, rows: Sequence[Row], logits: torch.Tensor) -> list[int | None]:
        """Greedy choice, or that of the row's sampler, with each row's repetition penalty on the tokens it
        already made (CTRL, Keskar et al. 2019). None for a row whose logits are NaN or infinite."""
        for index, row in enumerate(rows):
            if row.repetition_penalty != 1.0 and row.made:
                seen = torch.tensor(sorted(set(row.made)), device=logits.device)
                scores = logits[index, seen]
                penalised = torch.where(
                    scores < 0, scores * row.repetition_penalty, scores / row.repetition_penalty
                )
                logits[index, seen] = penalised
            if row.constraint is not None:
                row.constraint.allow(logits[index])
        highest, likeliest = logits.max(dim=-1)
        usable, chosen = torch.isfinite(highest).tolist(), likeliest.tolist()
        for index, row in enumerate(rows):
            if row.sampler is not None and usable[index]:
                chosen[index] = row.sampler.draw(logits[index])
        return [token if fine else None for token, fine in zip(chosen, usable, strict=True)]

    def _take(self, row: Row, token: int | None) -> bool:
        """Add ``token`` to ``row`` and note its event; True when the row has ended."""
        if token is None:
            self._ready.append(DecodeEvent(row.key, "", len(row.made), error="no finite logits"))
            return True
        if token in self._stop:
            self._ready.append(DecodeEvent(row.key, self._new_text(row, final=True), len(row.made), "stop"))
            return True
        row.made.append(token)
        if row.constraint is not None and row.constraint.take(token):
            self._ready.append(DecodeEvent(row.key, self._new_text(row, final=True), len(row.made), "stop"))
            return True
        if len(row.made) >= row.max_new_tokens:
            self._ready.append(DecodeEvent(row.key, self._new_text(row, final=True), len(row.made), "length"))
            return True
        self._ready.append(DecodeEvent(row.key, self._new_text(row, final=False), len(row.made)))
        return False

    def _new_text(self, row: Row, *, final: bool) -> str:
        """The text the newest tokens added; held back while a character is only half there."""
        text = self._tokenizer.decode(row.made, skip_special_tokens=True)
        if not final and text.endswith("\ufffd"):
            return ""
        new = text[len(row.shown) :]
        row.shown = text
        return str(new)

    def _drop(self, key: int) -> None:
        index = next((index for index, row in enumerate(self._rows) if row.key == key), None)
        if index is not None:
            self._cache.remove(index)
            last = self._rows.pop()
            if index < len(self._rows):
                self._rows[index] = last
