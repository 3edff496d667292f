"""Memory over many items, and the seconds from starting a worker to its being ready."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from .figures import Figures, TableOf
from .service import RESULT_TIMEOUT_S, TASK, Service
from .texts import Labelled

STEPS = (200, 1000, 2000)


def memory(services: dict[str, Service], texts: Sequence[Labelled], into: Figures) -> None:
    table = TableOf("Memory and start", ["", "ready s", *(f"RSS MB after {step}" for step in STEPS)])
    for precision, service in services.items():
        row: list[object] = [f"moodq {precision}", round(service.ready_s, 1)]
        done = 0
        for step in STEPS:
            batch = [text.text for text in itertools.islice(itertools.cycle(texts), done, step)]
            tickets = service.client.submit_many(batch, [TASK])
            list(service.client.wait([ticket.id for ticket in tickets], RESULT_TIMEOUT_S))
            done = step
            row.append(round(service.rss_mb()))
            into.figures[f"rss_mb_{step}_{precision}"] = round(service.rss_mb(), 1)
        into.figures[f"ready_s_{precision}"] = round(service.ready_s, 2)
        table.rows.append(row)
    into.tables.append(table)
