"""How long one message takes: on an idle worker, beside the bare forward pass, and during replies."""

from __future__ import annotations

import time
from collections.abc import Sequence

from moodq_producer import Client

from .child import Child
from .figures import Figures, TableOf, median, percentile
from .service import RESULT_TIMEOUT_S, TASK
from .texts import Labelled

#: Between two texts, so that neither side finds the other's threads still spinning.
PAUSE_S = 0.05


def interactive(client: Client, engine: Child, texts: Sequence[Labelled], into: Figures) -> None:
    """One sentiment at a time, submit to result, and the forward pass of the same text, in turn."""
    through, bare = [], []
    for text in texts:
        time.sleep(PAUSE_S)
        bare.append(engine.call("forward_s", text.text, text.lang))
        time.sleep(PAUSE_S)
        through.append(_one(client, text))
    into.ratios["interactive_vs_forward"] = round(median(through) / median(bare), 3)
    into.tables.append(
        TableOf(
            "One sentiment on an idle worker",
            ["", "p50 ms", "p95 ms"],
            [
                [
                    "submit to result",
                    round(median(through) * 1e3, 1),
                    round(percentile(through, 95) * 1e3, 1),
                ],
                [
                    "the forward pass alone",
                    round(median(bare) * 1e3, 1),
                    round(percentile(bare, 95) * 1e3, 1),
                ],
            ],
        )
    )


def during_replies(
    client: Client, labels: Sequence[Labelled], asked: Sequence[Labelled], into: Figures
) -> None:
    """Labels one at a time on an idle worker, then while the replies to ``asked`` are written."""
    idle = [_one(client, text) for text in labels]
    tickets = list(client.submit_many([text.text for text in asked], ["reply"], queue="interactive"))
    busy: list[float] = []
    number = 0
    while tickets[-1].result() is None or any(ticket.result() is None for ticket in tickets):
        busy.append(_one(client, labels[number % len(labels)]))
        number += 1
    into.ratios["labels_during_replies_vs_idle"] = round(percentile(busy, 95) / percentile(idle, 95), 3)
    into.tables.append(
        TableOf(
            f"A label while {len(asked)} replies are written",
            ["", "labels", "p50 ms", "p95 ms"],
            [
                [
                    "idle worker",
                    len(idle),
                    round(median(idle) * 1e3, 1),
                    round(percentile(idle, 95) * 1e3, 1),
                ],
                [
                    "during replies",
                    len(busy),
                    round(median(busy) * 1e3, 1),
                    round(percentile(busy, 95) * 1e3, 1),
                ],
            ],
        )
    )


def _one(client: Client, text: Labelled) -> float:
    began = time.perf_counter()
    client.submit(text.text, tasks=[TASK]).wait(timeout=RESULT_TIMEOUT_S)
    return time.perf_counter() - began
