"""Documents by their relevance to a query: the odds of yes and no after each; the query is prefilled once."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedModel

from moodq_config.answers import Ranking
from moodq_worker.engine_hf.kv_cache import Prefix
from moodq_worker.engine_hf.labels import LabelHead, score_labels

#: New tokens of one pass, its padding included; a longer document has a pass of its own.
PASS_TOKENS = 1_024


def rank(
    model: PreTrainedModel, query: Prefix, head: LabelHead, documents: Sequence[Sequence[int]]
) -> Ranking:
    """``query`` is the KV cache of the prompt up to each document; the first of the head's labels is yes."""
    by_length = sorted(range(len(documents)), key=lambda number: len(documents[number]))
    scores = [0.0] * len(documents)
    while by_length:
        width = len(documents[by_length[-1]]) + len(head.suffix)
        count = max(1, PASS_TOKENS // width)
        batch, by_length = by_length[-count:], by_length[:-count]
        found = score_labels(model, query, [head], [documents[number] for number in batch])
        for number, [answer] in zip(batch, found, strict=True):
            scores[number] = answer.scores[head.labels[0]]
    ranking = sorted(range(len(documents)), key=lambda number: -scores[number])
    return Ranking(scores=tuple(scores), ranking=tuple(ranking))
