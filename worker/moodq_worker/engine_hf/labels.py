"""Label tasks: the log-probability of every label word where the model would say it.

One forward pass over the text and a short suffix; the fixed prefix comes from the KV cache. A row may end in
branches: short pieces that see the prefix, the text and themselves, but not each other. A label word of
several tokens is scored whole on a branch, and what is asked after the text (``layout = "text_first"``, the
labels of a multilabel task) is asked on branches, so that the text is computed once for all of them. Either
way it is one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from moodq_config.answers import LabelScores
from moodq_worker.engine_hf.kv_cache import PrefillCache, Prefix
from moodq_worker.engine_hf.packed import output_logits
from moodq_worker.engine_hf.prefill import forward

Branch = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class LabelHead:
    """A label task made ready for one language. ``ask`` are the tokens its answer begins with, before the
    label word; none when the instruction came before the text."""

    labels: tuple[str, ...]
    words: tuple[Branch, ...]
    bias: torch.Tensor  # [labels], added to the log-probabilities
    rows: torch.Tensor  # [labels, hidden] of the output matrix, for each word's first token
    suffix: tuple[int, ...]
    ask: Branch = ()
    temperature: float = 1.0  # divides the sum of log-probability and bias

    @property
    def branches(self) -> tuple[Branch, ...]:
        """The pieces this task needs beside the text: its question, and every word without its last token."""
        asked = (self.ask,) if self.ask else ()
        return asked + tuple(self.ask + word[:-1] for word in self.words if len(word) > 1)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the parts of a row are: columns of ``ids`` after the text's own ``width``."""

    branches: tuple[Branch, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, branches: tuple[Branch, ...]) -> _Layout:
        starts, start = [], 0
        for branch in branches:
            starts.append(start)
            start += len(branch)
        return cls(branches, tuple(starts))

    @property
    def tokens(self) -> tuple[int, ...]:
        return tuple(token for branch in self.branches for token in branch)


@torch.inference_mode()
def score_labels(
    model: PreTrainedModel, prefix: Prefix, heads: Sequence[LabelHead], texts: Sequence[Sequence[int]]
) -> list[list[LabelScores]]:
    """For each of ``texts`` (token ids), which follow ``prefix``, the scores of each of ``heads``, in order.

    All heads must share prefix and suffix.
    """
    suffix = heads[0].suffix
    layout = _Layout.of(tuple(branch for head in heads for branch in head.branches))
    lengths = torch.tensor([len(text) + len(suffix) for text in texts])
    width, extra = int(lengths.max()), len(layout.tokens)
    ids = torch.zeros(len(texts), width + extra, dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : lengths[row]] = torch.tensor([*text, *suffix])
    ids[:, width:] = torch.tensor(layout.tokens, dtype=torch.long)
    cache = PrefillCache([prefix] * len(texts), width + extra, keep=False)
    seen, positions = _attention(layout, prefix.tokens, lengths, width, cache.columns)
    # What is looked at: the text's end and all of the branches.
    keep = torch.cat(
        [lengths[:, None] - 1, torch.arange(width, width + extra).expand(len(texts), extra)], dim=1
    )
    columns = torch.arange(width + extra)
    real = (columns[None] < lengths[:, None]) | (columns[None] >= width)
    hidden = forward(model, ids, cache, seen, positions, real, keep)
    at_end, branched = hidden[:, 0], hidden[:, 1:]
    by_head, first = [], 0
    for head in heads:
        count = len(head.branches)
        starts = layout.starts[first : first + count]
        logprobs = _head_logprobs(model, head, starts, at_end, branched)
        odds = (logprobs + head.bias.to(logprobs.device)) / head.temperature
        probabilities = torch.softmax(odds, dim=-1).tolist()
        by_head.append([_scores(head.labels, row) for row in probabilities])
        first += count
    return [list(scores) for scores in zip(*by_head, strict=True)]


def calibrated(found: LabelScores, prior: LabelScores, strength: float) -> LabelScores:
    """``found`` less the model's liking for some of the labels, which ``prior`` shows: what it says to an
    empty text (contextual calibration, Zhao et al. 2021). ``strength`` 1 takes off all of it, 0 nothing."""
    labels = tuple(found.scores)
    logs = torch.tensor([found.scores[label] for label in labels]).log()
    liking = torch.tensor([prior.scores[label] for label in labels]).clamp(min=1e-6).log()
    return _scores(labels, torch.softmax(logs - strength * liking, dim=-1).tolist())


def _attention(
    layout: _Layout, past: int, lengths: torch.Tensor, width: int, key_columns: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Who sees whom, ``[rows or 1, queries, key_columns]``, and positions ``[rows or 1, queries]``."""
    extra = len(layout.tokens)
    columns = torch.arange(width + extra)
    if not extra:
        return (torch.arange(key_columns)[None] <= past + columns[:, None])[None], past + columns[None]
    own = torch.tril(torch.ones(width + extra, width + extra, dtype=torch.bool))
    own[width:, width:] = False
    offsets = torch.zeros(extra, dtype=torch.long)
    for branch, start in zip(layout.branches, layout.starts, strict=True):
        size = len(branch)
        block = slice(width + start, width + start + size)
        own[block, block] = torch.tril(torch.ones(size, size, dtype=torch.bool))
        offsets[start : start + size] = torch.arange(size)
    seen = torch.zeros(len(lengths), width + extra, key_columns, dtype=torch.bool)
    seen[:, :, :past] = True
    seen[:, :, past : past + width + extra] = own
    # A branch sees its row's own text, not the padding between the text's end and the branches.
    padding = (columns[None] >= lengths[:, None]) & (columns[None] < width)
    seen[:, width:, past : past + width + extra] &= ~padding[:, None, :]
    positions = past + columns.expand(len(lengths), -1).clone()
    positions[:, width:] = past + lengths[:, None] + offsets[None]
    return seen, positions


def _head_logprobs(
    model: PreTrainedModel,
    head: LabelHead,
    starts: Sequence[int],
    at_end: torch.Tensor,
    branched: torch.Tensor,
) -> torch.Tensor:
    """``[rows, labels]``; ``starts`` are the columns of the head's branches in ``branched``."""
    asked = branched[:, starts[0] + len(head.ask) - 1] if head.ask else at_end
    if all(len(word) == 1 for word in head.words):
        # The softmax's denominator is the same for all words and cancels.
        return asked.float() @ head.rows.T
    first = torch.log_softmax(output_logits(model, asked), dim=-1)
    word_starts = iter(starts[1:] if head.ask else starts)
    columns = []
    for word in head.words:
        total = first[:, word[0]]
        if len(word) > 1:
            begin = next(word_starts) + len(head.ask)
            later = branched[:, begin : begin + len(word) - 1]
            logprobs = torch.log_softmax(output_logits(model, later), dim=-1)
            for step, token in enumerate(word[1:]):
                total = total + logprobs[:, step, token]
        columns.append(total)
    return torch.stack(columns, dim=-1)


def _scores(labels: tuple[str, ...], probabilities: list[float]) -> LabelScores:
    return LabelScores.of(dict(zip(labels, probabilities, strict=True)))
