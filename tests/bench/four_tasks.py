"""One text, many tasks: four that ask after the text, against one of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from moodq_producer import Client

from .figures import Figures, TableOf, median
from .service import RESULT_TIMEOUT_S, label_of
from .texts import Labelled

TASKS_FILE = Path(__file__).with_name("four_tasks.toml")
TASKS = ("sentiment", "urgency", "topic", "intent")


def four_tasks(client: Client, texts: Sequence[Labelled], rounds: int, into: Figures) -> None:
    """``client``'s worker must have been started with ``TASKS_FILE``."""
    taken: dict[int, list[float]] = {1: [], 4: []}
    right: list[bool] = []
    for number in range(rounds + 1):
        for count, seconds in taken.items():
            began = time.perf_counter()
            tickets = list(client.submit_many([text.text for text in texts], TASKS[:count]))
            found = {result.id: result for result in client.wait([t.id for t in tickets], RESULT_TIMEOUT_S)}
            if number:  # the first round compiles kernels
                seconds.append(time.perf_counter() - began)
                right += [
                    label_of(found[ticket.id]) == text.label
                    for ticket, text in zip(tickets, texts, strict=True)
                    if count == len(TASKS)
                ]
    ratio = median([four / one for one, four in zip(taken[1], taken[4], strict=True)])
    into.ratios["four_tasks_vs_one"] = round(ratio, 3)
    rows = [[f"{n} task(s)", round(len(texts) / median(seconds), 1)] for n, seconds in taken.items()]
    note = f"sentiment among the four is right for {sum(right) / len(right):.3f}" if right else ""
    into.tables.append(TableOf("Tasks that share a text", ["", "texts/s"], rows, note))
