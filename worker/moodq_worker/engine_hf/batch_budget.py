"""How many new tokens a batch of labels takes: measured when the worker starts, not guessed."""

from __future__ import annotations

import time
from collections.abc import Sequence

from transformers import PreTrainedModel

from moodq_worker.engine_hf.kv_cache import Prefix
from moodq_worker.engine_hf.labels import LabelHead, score_labels

#: Batches tried, so many at least, and the length of their rows.
BATCH_TOKENS = (256, 512, 1024, 2048, 4096, 8192, 16384)
BATCHES_TRIED = 3
ROW_TOKENS = 32
#: The gain in tokens a second that makes a doubled batch worth its latency.
WORTH_DOUBLING = 1.07


def best_batch_tokens(model: PreTrainedModel, prefix: Prefix, head: LabelHead, words: Sequence[int]) -> int:
    """The smallest batch of short rows, made of ``words``, that is about as fast as the fastest."""
    row = (list(words) * ROW_TOKENS)[: ROW_TOKENS - len(head.suffix)]
    speeds: dict[int, float] = {}
    for budget in BATCH_TOKENS:
        fastest = max(speeds.values(), default=0.0)
        rows = [row] * (budget // ROW_TOKENS)
        # Twice: the first of a size compiles its kernels.
        speeds[budget] = budget / min(_seconds(model, prefix, head, rows) for _ in range(2))
        if len(speeds) >= BATCHES_TRIED and speeds[budget] < fastest * WORTH_DOUBLING:
            break
    fastest = max(speeds.values())
    return next(budget for budget, speed in speeds.items() if speed * WORTH_DOUBLING >= fastest)


def _seconds(model: PreTrainedModel, prefix: Prefix, head: LabelHead, rows: Sequence[Sequence[int]]) -> float:
    began = time.perf_counter()
    score_labels(model, prefix, [head], rows)
    return time.perf_counter() - began
