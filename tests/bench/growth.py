"""Cost as work grows: batch tokens and text length (engine alone), texts in flight (through the queue)."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

from moodq_producer import Client

from .child import Child
from .figures import Figures, TableOf
from .service import RESULT_TIMEOUT_S, TASK
from .texts import Labelled

BATCH_TOKENS = (32, 64, 128, 256, 512, 1024, 2048)
TEXT_TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2000)
IN_FLIGHT = (1, 2, 4, 8, 16, 32, 64)
ROW_TOKENS = 32
BUDGET = 512
FLIGHT_SECONDS = 4.0


def growth(client: Client, engine: Child, texts: Sequence[Labelled], floor: float, into: Figures) -> None:
    """``floor`` in tokens a second; printed beside every row."""
    batches = TableOf("Speed against batch tokens", ["batch tokens", "tokens/s", "of the floor"])
    for tokens in BATCH_TOKENS:
        speed = engine.call("tokens_per_s", ROW_TOKENS, tokens)
        batches.rows.append([tokens, round(speed), round(speed / floor, 3)])
    lengths = TableOf("Speed against text length", ["tokens of a text", "tokens/s", "of the floor"])
    for tokens in TEXT_TOKENS:
        speed = engine.call("tokens_per_s", tokens, max(tokens, BUDGET))
        lengths.rows.append([tokens, round(speed), round(speed / floor, 3)])
    flights = TableOf("Speed against texts in flight", ["in flight", "items/s", "p50 ms"])
    for count in IN_FLIGHT:
        speed, typical = _in_flight(client, count, texts)
        flights.rows.append([count, round(speed, 1), round(typical * 1e3)])
    batches.note = f"engine alone, rows of {ROW_TOKENS} tokens"
    lengths.note = f"engine alone, batches of {BUDGET} tokens or one text"
    flights.note = "through the queue, so many sent, all awaited, again"
    into.tables += [batches, lengths, flights]


def _in_flight(client: Client, count: int, texts: Sequence[Labelled]) -> tuple[float, float]:
    """Items a second and the median latency when ``count`` texts are sent together, again and again."""
    supply = itertools.cycle(texts)
    began, done, latencies = time.perf_counter(), 0, []
    while (spent := time.perf_counter() - began) < FLIGHT_SECONDS or not done:
        sent = time.perf_counter()
        batch = [next(supply).text for _ in range(count)]
        tickets = [client.submit(text, tasks=[TASK]) for text in batch]
        for _ in client.wait([ticket.id for ticket in tickets], RESULT_TIMEOUT_S):
            latencies.append(time.perf_counter() - sent)
            done += 1
    spent = time.perf_counter() - began
    return done / spent, sorted(latencies)[len(latencies) // 2]
