"""Priorities: interactive messages while the bulk queue is full, and what bulk pays for them."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from .figures import Figures, TableOf, median, percentile
from .service import RESULT_TIMEOUT_S, TASK, Service
from .texts import Labelled

SECONDS = 10.0
#: Between two interactive messages: some each second, as a service desk has them.
PAUSE_S = 0.4
CHUNK = 50


def flood(service: Service, texts: Sequence[Labelled], into: Figures) -> None:
    """Idle, bulk alone, and both, one after the other on the same worker."""
    idle, _ = _messages(service, texts)
    with _Flood(service, texts) as full:
        time.sleep(2.0)
        alone = full.speed(SECONDS)
        before, began = full.done(), time.perf_counter()
        busy, spent = _messages(service, texts)
        kept = (full.done() - before - len(busy)) / (time.perf_counter() - began)
    into.ratios["interactive_p95_flood_vs_idle"] = round(percentile(busy, 95) / percentile(idle, 95), 3)
    into.ratios["bulk_kept_under_interactive"] = round(kept / alone, 3)
    rows: list[list[Any]] = [
        ["idle worker", *_quantiles(idle), None],
        ["bulk alone", None, None, round(alone, 1)],
        [f"both, {len(busy) / spent:.1f} messages/s", *_quantiles(busy), round(kept, 1)],
    ]
    title = "Interactive messages while bulk is full"
    into.tables.append(TableOf(title, ["", "p50 ms", "p95 ms", "bulk items/s"], rows))


def _quantiles(seconds: Sequence[float]) -> list[float]:
    return [round(median(seconds) * 1e3, 1), round(percentile(seconds, 95) * 1e3, 1)]


def _messages(service: Service, texts: Sequence[Labelled]) -> tuple[list[float], float]:
    """Seconds each of the messages took that were sent one by one, and of all."""
    taken, began, number = [], time.perf_counter(), 0
    while time.perf_counter() - began < SECONDS:
        sent = time.perf_counter()
        service.client.submit(texts[number % len(texts)].text, tasks=[TASK]).wait(timeout=RESULT_TIMEOUT_S)
        taken.append(time.perf_counter() - sent)
        number += 1
        time.sleep(PAUSE_S)
    return taken, time.perf_counter() - began


class _Flood:
    """Keeps the bulk queue full."""

    def __init__(self, service: Service, texts: Sequence[Labelled]) -> None:
        self._service = service
        self._client = service.client
        self._texts = [text.text for text in texts]
        self._server: Any = service.client._redis
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._fill, daemon=True)

    def __enter__(self) -> _Flood:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()
        self._server.delete("rq:queue:bulk")
        deadline = time.monotonic() + RESULT_TIMEOUT_S
        while self._server.zcard("rq:wip:bulk") and time.monotonic() < deadline:
            time.sleep(0.1)

    def done(self) -> float:
        return self._service.items_done()

    def speed(self, seconds: float) -> float:
        before, began = self.done(), time.perf_counter()
        time.sleep(seconds)
        return (self.done() - before) / (time.perf_counter() - began)

    def _fill(self) -> None:
        while not self._stop.is_set():
            if self._server.llen("rq:queue:bulk") < 20:
                for _ in self._client.submit_many(self._texts, [TASK], queue="bulk", chunk=CHUNK):
                    pass
            self._stop.wait(0.2)
