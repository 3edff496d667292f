"""The loop of ``moodq follow``: read, send, wait, write in order, and only then commit.

Records travel in chunks, each one job. A chunk that gets no results is sent again: its ids are its records',
so what is under way is not made twice, and what a server has forgotten is made anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from redis.exceptions import RedisError

from moodq_config.contracts import RequestItem, Result
from moodq_config.errors import BadInput, MoodqError
from moodq_producer.async_client import AsyncClient
from moodq_producer.screen import bad_input_result
from moodq_producer.stream.records import Record, Source, written
from moodq_producer.stream.sinks import Sink
from moodq_producer.stream.steady import Steady

log = logging.getLogger(__name__)

#: Records of one job, and those that have been read and not been written, at most.
CHUNK, WINDOW = 100, 1_000
#: Seconds without its results after which a chunk is sent again.
RESEND_S = 10.0
#: Seconds between two commits: what a kill may repeat.
COMMIT_S = 0.5


@dataclass(frozen=True, slots=True)
class Work:
    tasks: tuple[str, ...]
    queue: str
    lang: str | None = None


class Pump:
    """``seen`` is told the result of every record that was written."""

    def __init__(
        self, client: AsyncClient, source: Source, sink: Sink, work: Work, seen: Callable[[Result], None]
    ) -> None:
        self._client = client
        self._source = source
        self._sink = sink
        self._work = work
        self._seen = seen
        self._stopping = asyncio.Event()
        self._room = asyncio.Semaphore(WINDOW // CHUNK)
        self._underway: deque[tuple[list[Record], asyncio.Task[list[Result]]]] = deque()
        self._arrived = asyncio.Event()
        self._uncommitted: list[tuple[Record, Result]] = []
        self._read_all = False
        self._steady = Steady()

    def stop(self) -> None:
        """Read nothing more; ``run`` ends when what is in hand is written and committed."""
        self._stopping.set()

    async def run(self) -> None:
        """Until ``stop``. Raises ``Unavailable`` for what no waiting mends."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read())
                group.create_task(self._write())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            for _, task in self._underway:
                task.cancel()
            await asyncio.gather(*(task for _, task in self._underway), return_exceptions=True)

    async def _read(self) -> None:
        steady = Steady()
        while not self._stopping.is_set():
            await self._room.acquire()
            if self._stopping.is_set():
                break
            reading = asyncio.create_task(steady.until_done(lambda: self._source.read(CHUNK)))
            stopping = asyncio.create_task(self._stopping.wait())
            try:
                await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
                # A read ends within a second, unless Redis is away: then nothing was read.
                await asyncio.wait((reading,), timeout=2.0)
                records = await reading if reading.done() else []
            finally:
                reading.cancel()
                stopping.cancel()
            if not records:
                self._room.release()
                continue
            self._underway.append((records, asyncio.create_task(self._labelled(records))))
            self._arrived.set()
        self._read_all = True
        self._arrived.set()

    async def _labelled(self, records: Sequence[Record]) -> list[Result]:
        """The results of ``records``, in their order."""
        results: dict[str, Result] = {}
        items: list[RequestItem] = []
        ids = [self._client.settings.id_prefix + record.item_id for record in records]
        for record, id in zip(records, ids, strict=True):
            try:
                if record.error is not None:
                    raise record.error
                items.append(self._client.check(record.text, self._work.tasks, id=id, lang=self._work.lang))
            except BadInput as error:
                results[id] = bad_input_result(id, str(error.code), error.message)
        steady = Steady()
        missing = len(items)
        while missing:
            found = await steady.until_done(lambda: self._ask(items))
            results |= {result.id: result for result in found}
            missing = len(items) - len(found)
        return [results[id] for id in ids]

    async def _ask(self, items: list[RequestItem]) -> list[Result]:
        """Send ``items`` as one job, or find that it is under way, and give the results that come in time."""
        work = self._work
        sent = self._client.submit_many(items, work.tasks, queue=work.queue, chunk=len(items), on_full="wait")
        waits = [asyncio.create_task(ticket.wait()) async for ticket in sent]
        try:
            await asyncio.wait(waits, timeout=RESEND_S)
            return [wait.result() for wait in waits if wait.done()]
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _write(self) -> None:
        committed_at = time.monotonic()
        while not (self._read_all and not self._underway):
            if self._underway and self._underway[0][1].done():
                await self._write_ready()
            else:
                await self._something()
            if self._uncommitted and time.monotonic() - committed_at >= COMMIT_S:
                await self._commit()
                committed_at = time.monotonic()
        await self._commit()

    async def _something(self) -> None:
        """Until the first chunk is there, another one was read, or a commit may be due."""
        self._arrived.clear()
        if self._read_all and not self._underway:
            return
        arrived = asyncio.create_task(self._arrived.wait())
        first = [self._underway[0][1]] if self._underway else []
        await asyncio.wait([arrived, *first], timeout=COMMIT_S, return_when=asyncio.FIRST_COMPLETED)
        arrived.cancel()

    async def _write_ready(self) -> None:
        """All chunks at the front whose results are there."""
        ready: list[tuple[Record, Result]] = []
        while self._underway and self._underway[0][1].done():
            records, task = self._underway.popleft()
            ready += zip(records, task.result(), strict=True)
            self._room.release()
        rows = [written(record, result) for record, result in ready]
        await self._steady.until_done(lambda: self._sink.write(rows))
        self._uncommitted += ready
        for _, result in ready:
            self._seen(result)

    async def _commit(self) -> None:
        if not self._uncommitted:
            return
        written_now, self._uncommitted = self._uncommitted, []
        await self._sink.sync()
        await self._steady.until_done(lambda: self._source.commit([record for record, _ in written_now]))
        try:
            await self._client.forget([result.id for _, result in written_now])
        except (RedisError, MoodqError) as error:
            log.info("results are left to their TTL (%s)", type(error).__name__)
