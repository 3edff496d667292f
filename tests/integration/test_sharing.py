"""Several workers: who does what, counted by the worker that each result names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from moodq_producer import Client

StartFakeWorker = Callable[..., Any]
WAIT_S = 120.0
CHUNKS, CHUNK, MESSAGES = 80, 10, 40


def test_workers_may_split_the_queues_and_others_share_them(
    redis_url: str, start_fake_worker: StartFakeWorker
) -> None:
    both = start_fake_worker()
    bulk_only = start_fake_worker(MOODQ_QUEUES="bulk")
    with Client(redis_url) as client:
        lines = [f"[[sleep 0.1]] line {number}" for number in range(CHUNKS * CHUNK)]
        bulk = [ticket.id for ticket in client.submit_many(lines, chunk=CHUNK)]
        messages = [client.submit(f"message {number}").id for number in range(MESSAGES)]
        did = {
            queue: Counter(result.worker for result in client.wait(ids, WAIT_S))
            for queue, ids in (("interactive", messages), ("bulk", bulk))
        }
    assert did["interactive"] == {both.name: MESSAGES}
    assert did["bulk"].total() == len(bulk)
    assert min(did["bulk"][both.name], did["bulk"][bulk_only.name]) >= 0.2 * len(bulk), did
