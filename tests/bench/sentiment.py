"""Sentiment: every way of labelling on the same texts, round by round."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from .article import ArticleWay
from .child import Child
from .figures import Figures
from .machine import Machine
from .measure import Peer, Row, ratio
from .texts import Labelled, TextPool

#: Seconds between rows, so that the threads of the one before have gone to sleep.
PAUSE_S = 0.5
WARM_UP_ITEMS = 8
UNDER_LOAD = "moodq, under load"
INT8 = "moodq int8, under load"
ONE_AT_A_TIME = "moodq, one at a time"
FP32, BF16 = "article's way, fp32", "article's way, bf16"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rows by name, and what the floor was taken from."""

    rows: dict[str, Row]
    new_tokens: float


def sentiment(
    console: Console,
    pool: TextPool,
    peers: Sequence[Peer],
    article: ArticleWay,
    machine: Machine,
    peak: Child,
    *,
    items: int,
    rounds: int,
    into: Figures,
) -> Comparison:
    rows = {peer.name: Row(peer.name) for peer in peers}
    new_tokens: list[int] = []
    for peer in peers:
        peer.run(pool.slice(rounds, WARM_UP_ITEMS))
    for number in range(rounds):
        slices = {times: pool.slice(number, items * times) for times in {peer.texts_times for peer in peers}}
        new_tokens += article.new_tokens(slices[max(slices)])
        machine.measure(peak)
        for peer in peers:
            time.sleep(PAUSE_S)
            texts = slices[peer.texts_times]
            _run_row(console, rows[peer.name], peer, texts, f"round {number + 1} of {rounds}")
    mean_tokens = sum(new_tokens) / len(new_tokens)
    moodq = rows[UNDER_LOAD]
    ratios = {
        "sentiment_vs_article_fp32": ratio(moodq, rows[FP32]),
        "sentiment_vs_article_bf16": ratio(moodq, rows[BF16]),
        "one_at_a_time_vs_article_fp32": ratio(rows[ONE_AT_A_TIME], rows[FP32]),
        "sentiment_vs_floor": round(moodq.speed / machine.floor_items_per_s(mean_tokens), 4),
    }
    if INT8 in rows:
        ratios["sentiment_int8_vs_article_fp32"] = ratio(rows[INT8], rows[FP32])
    for name, row in rows.items():
        if name.startswith("llama.cpp"):
            ratios["sentiment_vs_llama_cpp"] = ratio(moodq, row)
        if name.startswith("an encoder"):
            ratios["sentiment_vs_encoder"] = ratio(moodq, row)
    into.ratios |= ratios
    return Comparison(rows, mean_tokens)


def _run_row(console: Console, row: Row, peer: Peer, texts: Sequence[Labelled], progress: str) -> None:
    row.add(texts, peer.run(texts))
    console.print(
        f"  {progress}: {row.name}: {row.items_per_s[-1]:.2f} items/s", style="dim", highlight=False
    )
