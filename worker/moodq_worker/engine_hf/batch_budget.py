"""How many new tokens a batch of labels takes: measured when the worker starts, not guessed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch
from transformers import PreTrainedModel

from moodq_worker.engine_hf.kv_cache import Prefix
from moodq_worker.engine_hf.labels import LabelHead, score_labels

#: Batches tried, so many at least, and the length of their rows.
BATCH_TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384)
BATCHES_TRIED = 3
ROW_TOKENS = 32
#: The gain in tokens a second that makes a doubled batch worth its latency.
WORTH_DOUBLING = 1.07
#: Seconds a batch may take: what comes meanwhile waits, and on a busy machine larger ones only seem faster.
LONGEST_S = 0.5


def best_batch_tokens(model: PreTrainedModel, prefix: Prefix, head: LabelHead, words: Sequence[int]) -> int:
    """The smallest batch of short rows, made of ``words``, that is about as fast as the fastest."""
    row = (list(words) * ROW_TOKENS)[: ROW_TOKENS - len(head.suffix)]
    return smallest_worth_it(lambda tokens: _seconds(model, prefix, head, [row] * (tokens // ROW_TOKENS)))


def smallest_worth_it(seconds: Callable[[int], float]) -> int:
    """``seconds`` runs a batch of so many tokens and says how long it took. A batch that would take more than
    ``LONGEST_S`` is not tried."""
    speeds: dict[int, float] = {}
    for budget in BATCH_TOKENS:
        fastest = max(speeds.values(), default=0.0)
        try:
            # Twice: the first of a size compiles its kernels.
            speeds[budget] = budget / min(seconds(budget) for _ in range(2))
        except torch.OutOfMemoryError:
            if not speeds:
                raise
            break
        small_gain = len(speeds) >= BATCHES_TRIED and speeds[budget] < fastest * WORTH_DOUBLING
        if small_gain or 2 * budget / speeds[budget] > LONGEST_S:
            break
    fastest = max(speeds.values())
    return next(budget for budget, speed in speeds.items() if speed * WORTH_DOUBLING >= fastest)


def _seconds(model: PreTrainedModel, prefix: Prefix, head: LabelHead, rows: Sequence[Sequence[int]]) -> float:
    began = time.perf_counter()
    score_labels(model, prefix, [head], rows)
    return time.perf_counter() - began
