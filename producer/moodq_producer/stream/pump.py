"""The loop of ``moodq follow``: read, send, wait, write in order, and only then commit.

Records travel in chunks, each one job. A chunk that does not get all its results is sent again: its ids are
its records', so what is under way is not made twice, and what a server has forgotten is made anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

from redis.exceptions import RedisError

from moodq_config.contracts import RequestItem, Result
from moodq_config.errors import BadInput, MoodqError
from moodq_producer.async_client import AsyncClient
from moodq_producer.screen import bad_input_result
from moodq_producer.stream.records import Record, Source, written
from moodq_producer.stream.sinks import Sink
from moodq_producer.stream.steady import Steady
from moodq_producer.tickets import AsyncTicket

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
        #: In the order they were read; written from the front, as far as their results are there.
        self._underway: deque[tuple[Record, asyncio.Future[Result]]] = deque()
        self._chunks: set[asyncio.Task[None]] = set()
        self._arrived, self._room = asyncio.Event(), asyncio.Event()
        self._uncommitted: list[tuple[Record, Result]] = []
        self._read_all = False
        self._steady = Steady()

    def stop(self) -> None:
        """Read nothing more; ``run`` ends when what is in hand is written and committed."""
        self._stopping.set()
        self._room.set()

    async def run(self) -> None:
        """Until ``stop``. Raises ``Unavailable`` for what no waiting mends."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read())
                group.create_task(self._write())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        finally:
            for task in self._chunks:
                task.cancel()
            await asyncio.gather(*self._chunks, return_exceptions=True)
            for _, result in self._underway:
                if not result.cancel() and not result.cancelled():
                    result.exception()  # one of them was raised, and tells of the others

    async def _read(self) -> None:
        steady = Steady()
        while await self._has_room():
            limit = min(CHUNK, WINDOW - len(self._underway))
            reading = asyncio.create_task(steady.until_done(partial(self._source.read, limit)))
            stopping = asyncio.create_task(self._stopping.wait())
            try:
                await asyncio.wait((reading, stopping), return_when=asyncio.FIRST_COMPLETED)
                # A read ends within a second, unless Redis is away: then nothing was read.
                await asyncio.wait((reading,), timeout=2.0)
                records = await reading if reading.done() else []
            finally:
                reading.cancel()
                stopping.cancel()
            if records:
                self._send(records)
        self._read_all = True
        self._arrived.set()

    async def _has_room(self) -> bool:
        """Once there is room; False when nothing is to be read any more."""
        while len(self._underway) >= WINDOW and not self._stopping.is_set():
            self._room.clear()
            await self._room.wait()
        return not self._stopping.is_set()

    def _send(self, records: Sequence[Record]) -> None:
        loop = asyncio.get_running_loop()
        results = [loop.create_future() for _ in records]
        self._underway += zip(records, results, strict=True)
        task = asyncio.create_task(self._label(records, results))
        self._chunks.add(task)
        task.add_done_callback(self._chunks.discard)
        self._arrived.set()

    async def _label(self, records: Sequence[Record], results: Sequence[asyncio.Future[Result]]) -> None:
        """Give ``records`` their results, each as soon as it is there."""
        wanted: dict[str, asyncio.Future[Result]] = {}
        items: list[RequestItem] = []
        try:
            for record, result in zip(records, results, strict=True):
                id = self._client.settings.id_prefix + record.item_id
                try:
                    if record.error is not None:
                        raise record.error
                    item = self._client.check(record.text, self._work.tasks, id=id, lang=self._work.lang)
                except BadInput as error:
                    result.set_result(bad_input_result(id, str(error.code), error.message))
                else:
                    items.append(item)
                    wanted[id] = result
            steady = Steady()
            while not all(result.done() for result in results):
                await steady.until_done(partial(self._ask, items, wanted))
        except Exception as error:  # noqa: BLE001 - whatever it is, the writer must hear of it
            for result in results:
                if not result.done():
                    result.set_exception(error)

    async def _ask(self, items: list[RequestItem], wanted: dict[str, asyncio.Future[Result]]) -> None:
        """Send ``items`` as one job, or find that it is under way, and take the results that come in time."""

        async def take(ticket: AsyncTicket) -> None:
            result = await ticket.wait()
            if not wanted[ticket.id].done():
                wanted[ticket.id].set_result(result)

        work = self._work
        sent = self._client.submit_many(items, work.tasks, queue=work.queue, chunk=len(items), on_full="wait")
        takes = [asyncio.create_task(take(ticket)) async for ticket in sent]
        try:
            done, _ = await asyncio.wait(takes, timeout=RESEND_S)
            for one in done:
                one.result()  # raises what went wrong
        finally:
            for one in takes:
                one.cancel()
            await asyncio.gather(*takes, return_exceptions=True)

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
        """Until the first result is there, another record was read, or a commit may be due."""
        self._arrived.clear()
        if self._read_all and not self._underway:
            return
        arrived = asyncio.create_task(self._arrived.wait())
        waits: list[asyncio.Future[Any]] = [arrived, *(first for _, first in islice(self._underway, 1))]
        await asyncio.wait(waits, timeout=COMMIT_S, return_when=asyncio.FIRST_COMPLETED)
        arrived.cancel()

    async def _write_ready(self) -> None:
        """All at the front whose results are there."""
        ready: list[tuple[Record, Result]] = []
        while self._underway and self._underway[0][1].done():
            record, found = self._underway.popleft()
            ready.append((record, found.result()))
        self._room.set()
        rows = [written(record, result) for record, result in ready]
        await self._steady.until_done(partial(self._sink.write, rows))
        self._uncommitted += ready
        for _, result in ready:
            self._seen(result)

    async def _commit(self) -> None:
        if not self._uncommitted:
            return
        written_now, self._uncommitted = self._uncommitted, []
        await self._sink.sync()
        records = [record for record, _ in written_now]
        await self._steady.until_done(partial(self._source.commit, records))
        try:
            await self._client.forget([result.id for _, result in written_now])
        except (RedisError, MoodqError) as error:
            log.info("results are left to their TTL (%s)", type(error).__name__)
