"""Workers that die or hang over a text: it alone is given up, what was in hand with it is done elsewhere."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis
from rq.job import Job
from rq.serializers import JSONSerializer

from moodq_config.settings import load_settings
from moodq_producer import Client, Result
from moodq_worker.exit_codes import EXIT_HUNG

WAIT_S = 120.0
NEIGHBOURS = [f"neighbour-{number}" for number in range(8)]


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(load_settings(redis_url=redis_url)) as client:
        yield client


def supervise(
    client: Client, start: Callable[..., Any], ids: list[str], **settings: str
) -> tuple[dict[str, Result], list[Any]]:
    """Start a worker whenever the last one has ended, until every id has its result; returns the results and
    the workers that ended."""
    ended: list[Any] = []
    worker = start(**settings)
    deadline = time.monotonic() + WAIT_S
    while any(client.result(id) is None for id in ids):
        assert time.monotonic() < deadline, worker.log.read_text()
        try:
            worker.process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        worker.killed = True
        ended.append(worker)
        worker = start(**settings)
    return {id: found for id in ids if (found := client.result(id)) is not None}, ended


def send(client: Client, poison: str) -> list[str]:
    """A poison text, and neighbours of both queues that are in hand by the time it takes effect."""
    client.submit(poison, id="poison")
    for id in NEIGHBOURS[:4]:
        client.submit("a parcel", id=id)
    for id in NEIGHBOURS[4:]:
        client.submit("a parcel", id=id, queue="bulk")
    return [*NEIGHBOURS, "poison"]


def check(results: dict[str, Result], connection: Redis) -> None:
    failed = {id: found.error for id, found in results.items() if found.error is not None}
    assert list(failed) == ["poison"], failed
    assert failed["poison"] is not None
    assert failed["poison"].code == "max_attempts"
    assert results["poison"].attempt == 3
    job = Job.fetch("poison", connection, serializer=JSONSerializer)
    assert job.failed_job_registry.get_job_ids() == ["poison"]
    assert connection.zcard("rq:wip:interactive") == connection.zcard("rq:wip:bulk") == 0


def test_a_text_that_kills_its_worker_is_given_up_alone(
    client: Client, connection: Redis, start_fake_worker: Callable[..., Any]
) -> None:
    results, ended = supervise(client, start_fake_worker, send(client, "[[sleep 0.5]] [[kill]] parcel"))
    assert [worker.process.returncode for worker in ended] == [-9] * 3
    check(results, connection)


def test_a_text_on_which_the_engine_hangs_is_given_up_alone_and_its_worker_ends_with_a_clear_log(
    client: Client, connection: Redis, start_fake_worker: Callable[..., Any]
) -> None:
    results, ended = supervise(
        client, start_fake_worker, send(client, "[[sleep 600]] parcel"), MOODQ_HANG_TIMEOUT_S="2"
    )
    assert [worker.process.returncode for worker in ended] == [EXIT_HUNG] * 3
    assert all("the engine is stuck" in worker.log.read_text() for worker in ended)
    check(results, connection)
