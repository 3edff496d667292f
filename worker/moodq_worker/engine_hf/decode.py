"""Continuous decode: texts join and leave the running batch at any step.

Rows of different lengths share one KV cache by being right-aligned: each row's keys end at the same
column, so a step appends one column to all of them. The columns before a row begins are masked. Joining
and leaving rewrite the cache, which costs a copy of it and happens once per text, not per step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from moodq_worker.engine import DecodeEvent
from moodq_worker.engine_hf.kv_cache import LayerKV, Prefix, layers_of, right_aligned
from moodq_worker.engine_hf.packed import output_logits


@dataclass(slots=True)
class Row:
    """One text being answered. ``length`` counts the tokens whose keys are in the cache."""

    key: int
    max_new_tokens: int
    repetition_penalty: float
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
        self._cache: DynamicCache | None = None
        self._width = 0
        self._ready: list[DecodeEvent] = []

    def __len__(self) -> int:
        return len(self._rows)

    @torch.inference_mode()
    def join(self, prompts: Sequence[Prompt], rows: Sequence[Row]) -> None:
        """Prefill ``prompts`` and let ``rows`` take part from the next step on.

        Rows that share a prefix are prefilled together, right-padded.
        """
        joined: list[tuple[Row, list[LayerKV]]] = []
        by_prefix: dict[int, list[int]] = {}
        for index, prompt in enumerate(prompts):
            by_prefix.setdefault(id(prompt.prefix), []).append(index)
        for indices in by_prefix.values():
            group = [prompts[i] for i in indices]
            cache, logits = self._prefill(group)
            firsts = self._choose([rows[i] for i in indices], logits)
            for place, index in enumerate(indices):
                row = rows[index]
                row.length = prompts[index].prefix.tokens + len(prompts[index].tokens)
                kv = [(k[place, :, : row.length], v[place, :, : row.length]) for k, v in layers_of(cache)]
                if not self._take(row, firsts[place]):
                    joined.append((row, kv))
        if joined:
            self._rebuild(self._rows_kv() + [kv for _, kv in joined], self._rows + [row for row, _ in joined])

    @torch.inference_mode()
    def step(self) -> list[DecodeEvent]:
        """One token for every row; also what ``join`` made since the last step."""
        if self._rows and self._cache is not None:
            device = self._model.device
            ids = torch.tensor([[row.made[-1]] for row in self._rows], device=device)
            positions = torch.tensor([[row.length] for row in self._rows], device=device)
            self._width += 1
            begin = torch.tensor([[self._width - row.length - 1] for row in self._rows])
            mask = (torch.arange(self._width)[None] >= begin).to(device)
            hidden = self._model.base_model(
                input_ids=ids,
                position_ids=positions,
                attention_mask=mask,
                past_key_values=self._cache,
                use_cache=True,
            ).last_hidden_state[:, -1]
            logits = output_logits(self._model, hidden)
            chosen = self._choose(self._rows, logits)
            for row in self._rows:
                row.length += 1
            ended = [row for row, token in zip(self._rows, chosen, strict=True) if self._take(row, token)]
            if ended:
                self._drop({row.key for row in ended})
        ready, self._ready = self._ready, []
        return ready

    def cancel(self, key: int) -> None:
        """Take a row out without an event; unknown keys are ignored."""
        self._ready = [event for event in self._ready if event.key != key]
        if any(row.key == key for row in self._rows):
            self._drop({key})

    def clear(self) -> None:
        """Forget every row, after a failed step."""
        self._rows, self._cache, self._width, self._ready = [], None, 0, []

    @property
    def keys(self) -> list[int]:
        return [row.key for row in self._rows]

    def _prefill(self, group: list[Prompt]) -> tuple[DynamicCache, torch.Tensor]:
        lengths = [len(prompt.tokens) for prompt in group]
        ids = torch.zeros(len(group), max(lengths), dtype=torch.long)
        for row, prompt in enumerate(group):
            ids[row, : lengths[row]] = torch.tensor(prompt.tokens)
        cache = group[0].prefix.expanded(len(group))
        hidden = self._model.base_model(
            input_ids=ids.to(self._model.device), past_key_values=cache, use_cache=True
        ).last_hidden_state
        last = hidden[torch.arange(len(group)), torch.tensor(lengths) - 1]
        return cache, output_logits(self._model, last)

    def _choose(self, rows: Sequence[Row], logits: torch.Tensor) -> list[int]:
        """Greedy choice, with each row's repetition penalty on the tokens it already made (CTRL,
        Keskar et al. 2019)."""
        for index, row in enumerate(rows):
            if row.repetition_penalty != 1.0 and row.made:
                seen = torch.tensor(sorted(set(row.made)), device=logits.device)
                scores = logits[index, seen]
                penalised = torch.where(
                    scores < 0, scores * row.repetition_penalty, scores / row.repetition_penalty
                )
                logits[index, seen] = penalised
        chosen: list[int] = logits.argmax(dim=-1).tolist()
        return chosen

    def _take(self, row: Row, token: int) -> bool:
        """Add ``token`` to ``row`` and note its event; True when the row has ended."""
        if token in self._stop:
            self._ready.append(DecodeEvent(row.key, self._new_text(row, final=True), len(row.made), "stop"))
            return True
        row.made.append(token)
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

    def _rows_kv(self) -> list[list[LayerKV]]:
        if self._cache is None:
            return []
        layers = layers_of(self._cache)
        return [
            [
                (k[index, :, self._width - row.length :], v[index, :, self._width - row.length :])
                for k, v in layers
            ]
            for index, row in enumerate(self._rows)
        ]

    def _rebuild(self, kv: list[list[LayerKV]], rows: list[Row]) -> None:
        self._rows = rows
        self._width = max(row.length for row in rows)
        self._cache = DynamicCache(right_aligned(kv, [row.length for row in rows], self._width))

    def _drop(self, keys: set[int]) -> None:
        kept = [(row, kv) for row, kv in zip(self._rows, self._rows_kv(), strict=True) if row.key not in keys]
        if kept:
            self._rebuild([kv for _, kv in kept], [row for row, _ in kept])
        else:
            self._rows, self._cache, self._width = [], None, 0
