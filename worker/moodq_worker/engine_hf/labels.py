"""Label tasks: the log-probability of every label word at the position after the prompt.

One forward pass over the text and the short suffix; the fixed prefix comes from the KV cache. Texts are
right-padded to the longest of their batch: with causal attention nothing before the padding sees it.
A label word of several tokens is scored whole: its tokens but the last are appended to the row as branches
that see the text and themselves but not each other, so even then it is one pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from moodq_config.contracts import LabelScores
from moodq_worker.engine_hf.kv_cache import PrefillCache, Prefix
from moodq_worker.engine_hf.packed import output_logits
from moodq_worker.engine_hf.prefill import forward, last_hidden


@dataclass(frozen=True, slots=True)
class LabelHead:
    """A label task made ready for one language: its prefix, suffix and label words as tokens."""

    labels: tuple[str, ...]
    words: tuple[tuple[int, ...], ...]
    bias: torch.Tensor  # [labels], added to the log-probabilities
    rows: torch.Tensor  # [labels, hidden] of the output matrix, for each word's first token
    prefix: Prefix
    suffix: tuple[int, ...]

    @property
    def branch_tokens(self) -> tuple[int, ...]:
        """Every word's tokens but its last, one word after another."""
        return tuple(token for word in self.words for token in word[:-1])


@torch.inference_mode()
def score_labels(
    model: PreTrainedModel, head: LabelHead, texts: Sequence[Sequence[int]]
) -> list[LabelScores]:
    """Probabilities of ``head.labels`` for each of ``texts`` (token ids), in order."""
    lengths = [len(text) + len(head.suffix) for text in texts]
    branches = head.branch_tokens
    width = max(lengths)
    ids = torch.zeros(len(texts), width + len(branches), dtype=torch.long)
    for row, text in enumerate(texts):
        ids[row, : lengths[row]] = torch.tensor([*text, *head.suffix])
    if branches:
        ids[:, width:] = torch.tensor(branches)
    ends = torch.tensor(lengths) - 1
    cache = PrefillCache(head.prefix, ids.shape[1], keep=False)
    if branches:
        hidden = _branched(model, head, cache, ids, ends)
        at_end = hidden[torch.arange(len(texts)), ends.to(hidden.device)]
    else:
        at_end = last_hidden(model, cache, head.prefix.tokens, ids, ends)
    if branches:
        logprobs = _whole_words(model, head, at_end, hidden[:, width:])
    else:
        # All words are one token: the softmax's denominator is the same for all and cancels.
        logprobs = at_end.float() @ head.rows.T
    probabilities = torch.softmax(logprobs + head.bias.to(logprobs.device), dim=-1)
    return [_scores(head.labels, row) for row in probabilities.tolist()]


def _branched(
    model: PreTrainedModel, head: LabelHead, cache: PrefillCache, ids: torch.Tensor, ends: torch.Tensor
) -> torch.Tensor:
    """Hidden states ``[rows, columns, hidden]`` of texts and branches."""
    width = ids.shape[1] - len(head.branch_tokens)
    seen, positions = _branch_layout(head, ends + 1, width, cache.columns)
    return forward(model, ids, cache, seen, positions)


def _branch_layout(
    head: LabelHead, lengths: torch.Tensor, width: int, key_columns: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """The attention mask ``[rows, queries, keys]`` (True: seen) and positions ``[rows, queries]`` of a
    batch whose rows end in the label words' branches."""
    past, rows, branch_len = head.prefix.tokens, len(lengths), len(head.branch_tokens)
    columns = torch.arange(width + branch_len)
    own = torch.tril(torch.ones(width + branch_len, width + branch_len, dtype=torch.bool))
    own[width:, width:] = False
    offsets = torch.zeros(branch_len, dtype=torch.long)
    start = 0
    for word in head.words:
        size = len(word) - 1
        block = slice(width + start, width + start + size)
        own[block, block] = torch.tril(torch.ones(size, size, dtype=torch.bool))
        offsets[start : start + size] = torch.arange(size)
        start += size
    mask = own.expand(rows, -1, -1).clone()
    # A branch sees its row's own text, not the padding between the text's end and the branches.
    padding = (columns[None] >= lengths[:, None]) & (columns[None] < width)
    mask[:, width:, :] &= ~padding[:, None, :]
    seen_prefix = torch.ones(rows, width + branch_len, past, dtype=torch.bool)
    unused = torch.zeros(rows, width + branch_len, key_columns - past - mask.shape[-1], dtype=torch.bool)
    positions = past + columns.expand(rows, -1).clone()
    positions[:, width:] = past + lengths[:, None] + offsets[None]
    return torch.cat([seen_prefix, mask, unused], dim=-1), positions


def _whole_words(
    model: PreTrainedModel, head: LabelHead, at_end: torch.Tensor, branches: torch.Tensor
) -> torch.Tensor:
    """Sum of each word's token log-probabilities, ``[rows, labels]``."""
    first = torch.log_softmax(output_logits(model, at_end), dim=-1)
    later = torch.log_softmax(output_logits(model, branches), dim=-1)
    columns = []
    start = 0
    for word in head.words:
        total = first[:, word[0]]
        for step, token in enumerate(word[1:]):
            total = total + later[:, start + step, token]
        start += len(word) - 1
        columns.append(total)
    return torch.stack(columns, dim=-1)


def _scores(labels: tuple[str, ...], row: list[float]) -> LabelScores:
    best = max(range(len(labels)), key=row.__getitem__)
    return LabelScores(label=labels[best], probability=row[best], scores=dict(zip(labels, row, strict=True)))
