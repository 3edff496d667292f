"""The load of a soak: every way in and out at once, at a steady pace. ``python -m tests.soak.load SECONDS``.

A process of its own, so that the producer's memory, threads and connections are measured apart. Prints counts
as JSON at the end; what went another way than it must is in ``wrong``.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing

from rq.queue import Queue
from rq.serializers import JSONSerializer

from moodq_config.errors import BadInput, QueueFull, WaitTimeout
from moodq_config.names import JOB_FUNCTION
from moodq_config.settings import Settings, load_settings
from moodq_producer import AsyncClient, Client
from moodq_producer.connection import connect

WAIT_S = 120.0
CHUNK = 60
#: Texts that come again and again, and are answered from the cache.
COMMON = [f"the same text as before, number {number}" for number in range(20)]


class Load:
    """``fake``: whether the engine is the fake one, which fails on texts that ask for it."""

    def __init__(self, settings: Settings, seconds: float) -> None:
        self._settings = settings
        self._fake = settings.engine == "fake"
        self._until = time.monotonic() + seconds
        self._counts: Counter[str] = Counter()
        self._wrong: list[str] = []
        self._numbers = iter(range(10**12))

    def run(self) -> dict[str, object]:
        ways: list[Callable[[], None]] = [
            lambda: self._turns(self._labels, 0.05),
            lambda: self._turns(self._chunks, 1.0),
            lambda: self._turns(self._bad_jobs, 0.5),
            lambda: self._turns(self._short_lived, 1.0),
            lambda: asyncio.run(self._in_one_loop()),
        ]
        threads = [threading.Thread(target=way) for way in ways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"counts": dict(self._counts), "wrong": self._wrong}

    # -- the sync client ----------------------------------------------------------------------------------

    def _times(self, every_s: float) -> Iterator[None]:
        """Once in ``every_s``, however long a turn takes, so that the load stays the same."""
        due = time.monotonic()
        while time.monotonic() < self._until:
            yield
            due = max(due + every_s, time.monotonic() - every_s)
            time.sleep(max(0.0, due - time.monotonic()))

    def _turns(self, turn: Callable[[Client], None], every_s: float) -> None:
        with Client(self._settings) as client:
            for _ in self._times(every_s):
                try:
                    turn(client)
                except QueueFull:
                    self._counts["queue_full"] += 1
                except Exception as error:  # noqa: BLE001 - the soak goes on and tells of it at the end
                    self._wrong.append(f"{turn.__name__}: {type(error).__name__}: {error}")

    def _labels(self, client: Client) -> None:
        """One message after the other; every other text is known."""
        number = self._number()
        text = COMMON[number % len(COMMON)] if number % 2 else f"message {number}"
        ticket = client.submit(text, id=f"label-{number}")
        again = client.submit(text, id=f"label-{number}")
        first, second = ticket.wait(WAIT_S), again.wait(WAIT_S)
        self._expect(first.status == "done" and first == second, f"{ticket.id}: {first} {second}")
        self._counts["labels"] += 1

    def _chunks(self, client: Client) -> None:
        """Bulk, some of it failing, and part of it sent twice."""
        number = self._number()
        items = [{"id": f"bulk-{number}-{n}", "text": f"line {number} {n}"} for n in range(CHUNK)]
        failing: set[str] = set()
        if self._fake:
            items[7]["text"], items[20]["text"] = "[[raise]]", "[[nan]]"
            failing = {items[7]["id"], items[20]["id"]}
        ids = [ticket.id for ticket in client.submit_many(items, chunk=20)]
        ids += [ticket.id for ticket in client.submit_many(items[:20], chunk=20)]
        results = {result.id: result for result in client.wait(dict.fromkeys(ids), WAIT_S)}
        failed = {id for id, result in results.items() if result.status == "failed"}
        self._expect(len(results) == CHUNK and failed == failing, f"bulk-{number}: failed {failed}")
        self._counts["bulk"] += CHUNK

    def _bad_jobs(self, client: Client) -> None:
        """What a producer refuses, and what only a worker can: jobs made by others."""
        number = self._number()
        try:
            client.submit(" ")
        except BadInput:
            self._counts["refused"] += 1
        items = [{"id": f"bad-{number}", "text": " ", "tasks": ["sentiment"]}, "no item"]
        with closing(connect(self._settings)) as connection:
            queue = Queue("bulk", connection=connection, serializer=JSONSerializer)
            for payload in ({"v": 1, "items": items}, {"v": 9, "items": [{"id": f"old-{number}"}]}):
                queue.enqueue_call(
                    JOB_FUNCTION, args=(payload,), job_id=f"job-{self._number()}", timeout=-1,
                    result_ttl=self._settings.result_ttl_s, failure_ttl=self._settings.failure_ttl_s,
                )  # fmt: skip
        results = client.wait([f"bad-{number}", f"old-{number}"], WAIT_S)
        codes = {result.error.code for result in results if result.error}
        self._expect(codes == {"empty_text", "wrong_version"}, f"bad-{number}: {codes}")
        self._counts["bad"] += 2

    def _short_lived(self, _: Client) -> None:
        """A client that comes, waits for one text and goes, and one that gives up waiting."""
        with Client(self._settings) as client:
            ticket = client.submit(f"short {self._number()}")
            self._expect(ticket.wait(WAIT_S).status == "done", ticket.id)
            try:
                next(client.wait([f"nobody-sent-{self._number()}"], 0.05))
            except WaitTimeout:
                self._counts["gave_up"] += 1
        self._counts["short_lived"] += 1

    # -- the async client ---------------------------------------------------------------------------------

    async def _in_one_loop(self) -> None:
        async with AsyncClient(self._settings) as client:
            await asyncio.gather(self._replies(client), self._streams(client), self._waiters(client))

    async def _async_times(self, every_s: float) -> AsyncIterator[None]:
        due = time.monotonic()
        while time.monotonic() < self._until:
            yield
            due = max(due + every_s, time.monotonic() - every_s)
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _replies(self, client: AsyncClient) -> None:
        async for _ in self._async_times(0.6):
            number = self._number()
            tickets = [
                await client.submit(
                    f"please answer {number} {n}", ["sentiment", "reply"], id=f"reply-{number}-{n}"
                )
                for n in range(4)
            ]
            results = await asyncio.gather(*(ticket.wait(WAIT_S) for ticket in tickets))
            self._expect(all("reply" in result.results for result in results), f"reply-{number}: {results}")
            self._counts["replies"] += len(results)

    async def _streams(self, client: AsyncClient) -> None:
        async for _ in self._async_times(0.6):
            ticket = await client.submit(f"tell me more {self._number()}", ["reply"])
            kinds = [event.kind async for event in client.stream(ticket.id, WAIT_S)]
            self._expect("token" in kinds and kinds[-1] == "done", f"{ticket.id}: {kinds}")
            # one that is left in the middle
            ticket = await client.submit(f"tell me more {self._number()}", ["reply"])
            async with asyncio.timeout(WAIT_S):
                stream = client.stream(ticket.id)
                await anext(stream)
                await stream.aclose()
            self._counts["streams"] += 2

    async def _waiters(self, client: AsyncClient) -> None:
        """Many waits at once over one connection; some are cancelled, some wait for what never comes."""
        async for _ in self._async_times(1.1):
            number = self._number()
            tickets = [await client.submit(f"one of many {number} {n}") for n in range(50)]
            waits = [asyncio.create_task(ticket.wait(WAIT_S)) for ticket in tickets]
            waits[0].cancel()
            done = await asyncio.gather(*waits, return_exceptions=True)
            self._expect(
                sum(isinstance(one, BaseException) for one in done) <= 1, f"waiters {number}: {done}"
            )
            self._counts["waits"] += len(done)

    # -- helpers ------------------------------------------------------------------------------------------

    def _number(self) -> int:
        return next(self._numbers)

    def _expect(self, right: bool, what: str) -> None:
        if not right:
            self._wrong.append(what[:500])


def main() -> None:
    found = Load(load_settings(), float(sys.argv[1])).run()
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
