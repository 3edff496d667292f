"""The client for asyncio: the verbs of ``client`` over ``redis.asyncio``; see there for what they promise."""

from __future__ import annotations

import asyncio
import builtins
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import suppress
from functools import partial
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, OutOfMemoryError, RedisError
from rq.worker_registration import REDIS_WORKER_KEYS

from moodq_config.contracts import RequestItem, Result
from moodq_config.names import INTERACTIVE, events_key, result_key
from moodq_config.settings import Settings, server_url
from moodq_producer.cancelling import CANCEL_SCRIPT, cancel_args, cancel_keys, was_cancelled
from moodq_producer.client import DEFAULT_TASKS, FORGOTTEN_AT_ONCE, PIPELINE_JOBS, T
from moodq_producer.connection import AWAY, block_s, close_async, connect_async, redis_errors, unreachable
from moodq_producer.conversations import AsyncConversations
from moodq_producer.enqueue import ENQUEUE_SCRIPT, Admission, OnFull, QueuedJob, no_memory
from moodq_producer.following import Event, Following
from moodq_producer.hub import Hub
from moodq_producer.jobs import Deadline, JobMaker, Source, chunks, deadline_text, settings_from
from moodq_producer.tickets import AsyncTicket
from moodq_producer.tracing import sending
from moodq_producer.waiting import Patience, Waiting, joins, parse_result, wait_timeout


class AsyncClient:
    """Submits texts and waits for their results, in one event loop. Connects at the first call; close it,
    or use ``async with``. ``settings`` as for ``Client``. Raises ``ConfigError``."""

    def __init__(self, settings: Settings | str | None = None) -> None:
        self.settings = settings_from(settings)
        self._maker = JobMaker(self.settings)
        self._url = server_url(self.settings)
        self._redis: Redis | None = None
        self._connecting = asyncio.Lock()
        self._hub = Hub(self._connected, self._url, self.settings.away_timeout_s)

    async def __aenter__(self) -> AsyncClient:
        await self._connected()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._hub.close()
        if self._redis is not None:
            await close_async(self._redis)
            self._redis = None

    async def submit(
        self,
        text: str,
        tasks: Sequence[str] | str = DEFAULT_TASKS,
        *,
        id: str | None = None,
        queue: str = INTERACTIVE,
        lang: str | None = None,
        conversation: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        deadline: Deadline = None,
        labels: Sequence[str] | None = None,
        documents: Sequence[str] | None = None,
        traceparent: str | None = None,
        request_id: str | None = None,
        on_full: OnFull | None = None,
        full_timeout: float | None = None,
    ) -> AsyncTicket:
        """Enqueue one text; see ``Client.submit``."""
        self._maker.check_queue(queue)
        item = self._maker.item(
            text,
            tasks,
            id=id,
            lang=lang,
            conversation=conversation,
            metadata=None if metadata is None else dict(metadata),
            deadline=deadline_text(deadline),
            labels=labels,
            documents=documents,
            traceparent=traceparent,
        )
        redis = await self._connected()
        with sending(queue, [[item]], request_id) as sent:
            jobs = [self._maker.job(items, queue, redis, context) for items, context in sent]
            await self._enqueue(redis, jobs, on_full, full_timeout)
        return AsyncTicket(item.id, self)

    def check(
        self,
        text: str,
        tasks: Sequence[str] | str = DEFAULT_TASKS,
        *,
        id: str | None = None,
        lang: str | None = None,
        deadline: Deadline = None,
        labels: Sequence[str] | None = None,
        documents: Sequence[str] | None = None,
    ) -> RequestItem:
        """The item that ``submit`` would send, without sending it. Raises ``BadInput``."""
        return self._maker.item(
            text,
            tasks,
            id=id,
            lang=lang,
            deadline=deadline_text(deadline),
            labels=labels,
            documents=documents,
        )

    def item(self, source: Source, tasks: Sequence[str] | str = DEFAULT_TASKS) -> RequestItem:
        """The item that ``source`` means, checked; ``tasks`` where it names none. Raises ``BadInput``."""
        return self._maker.item(source, tasks)

    async def submit_items(
        self,
        items: Sequence[RequestItem],
        *,
        queue: str = INTERACTIVE,
        traceparent: str | None = None,
        request_id: str | None = None,
        on_full: OnFull | None = None,
        full_timeout: float | None = None,
    ) -> str:
        """Enqueue items that ``item`` gave as one job; returns its id. ``traceparent`` is the
        context of those that bring none. Raises what ``submit`` raises."""
        self._maker.check_queue(queue)
        redis = await self.connection()
        with sending(queue, [list(items)], request_id, traceparent) as [(sent, context)]:
            job = self._maker.job(sent, queue, redis, context)
            await self._enqueue(redis, [job], on_full, full_timeout)
        return job.id

    @property
    def conversations(self) -> AsyncConversations:
        """Conversations as people see them, over this client's connection."""
        return AsyncConversations(self._connected, self.settings)

    def ticket(self, id: str) -> AsyncTicket:
        """The ticket of an item that was sent before, here or elsewhere."""
        return AsyncTicket(id, self)

    async def submit_many(
        self,
        sources: Iterable[Source],
        tasks: Sequence[str] | str = DEFAULT_TASKS,
        *,
        queue: str = "bulk",
        chunk: int = 100,
        lang: str | None = None,
        on_full: OnFull | None = None,
        full_timeout: float | None = None,
    ) -> AsyncGenerator[AsyncTicket, None]:
        """Enqueue texts as the tickets are taken; see ``Client.submit_many``."""
        self._maker.check_queue(queue)
        size = self._maker.chunk_size(chunk)
        redis = await self._connected()
        items = self._maker.numbered_items(sources, tasks, lang)
        for pipeline in chunks(chunks(items, size), PIPELINE_JOBS):
            with sending(queue, pipeline) as sent:
                jobs = [self._maker.job(members, queue, redis, context) for members, context in sent]
                await self._enqueue(redis, jobs, on_full, full_timeout)
            for job in jobs:
                for id in job.item_ids:
                    yield AsyncTicket(id, self)

    async def result(self, id: str) -> Result | None:
        """The result of an item if it is there now; None before it is done and after its TTL."""
        redis = await self._connected()
        with redis_errors(self._url):
            value = await redis.get(result_key(id))
        return None if value is None else parse_result(value, id)

    async def forget(self, ids: Sequence[str]) -> None:
        """Delete results that need not be kept until their TTL ends; see ``Client.forget``."""
        redis = await self._connected()
        with redis_errors(self._url), suppress(NoPermissionError):
            async with redis.pipeline(transaction=False) as pipe:
                for start in range(0, len(ids), FORGOTTEN_AT_ONCE):
                    some = ids[start : start + FORGOTTEN_AT_ONCE]
                    pipe.unlink(*(key for id in some for key in (result_key(id), events_key(id))))
                await pipe.execute()

    async def wait(
        self,
        ids: Iterable[str] | AsyncIterable[str],
        timeout: float | None = None,  # noqa: ASYNC109 - a timeout here tells who is working on it
        *,
        idle_timeout: float | None = None,
    ) -> AsyncGenerator[Result, None]:
        """Results as they come, over one connection; see ``Client.wait``."""
        redis = await self._connected()
        source = aiter(ids) if isinstance(ids, AsyncIterable) else _as_async(ids)
        waiting, patience = Waiting(), Patience(self.settings.away_timeout_s, timeout, idle_timeout)
        while True:
            waiting.add([id async for id in _take(source, waiting.room)])
            if not waiting.pending:
                return
            results = await self._patiently(partial(self._read, redis, waiting, patience), patience)
            patience.answered(results=bool(results))
            for result in results:
                yield result
            if not results and not waiting.fresh and patience.left() == 0.0:
                raise wait_timeout(waiting.pending, patience.waited_s, await self.workers_alive())

    async def as_completed(
        self,
        tickets: Iterable[AsyncTicket] | AsyncIterable[AsyncTicket],
        timeout: float | None = None,  # noqa: ASYNC109 - as for wait
        *,
        idle_timeout: float | None = None,
    ) -> AsyncGenerator[tuple[AsyncTicket, Result], None]:
        """Each ticket with its result, as the results come; see ``Client.as_completed``."""
        under_way: dict[str, list[AsyncTicket]] = {}
        source = aiter(tickets) if isinstance(tickets, AsyncIterable) else _as_async(tickets)
        ids = (ticket.id async for ticket in source if joins(ticket, under_way))
        async for result in self.wait(ids, timeout, idle_timeout=idle_timeout):
            for ticket in under_way.pop(result.id):
                yield ticket, result

    async def _wait_for(self, id: str, timeout: float | None) -> Result:  # noqa: ASYNC109 - as for wait
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                return await self._hub.wait(id)
        except builtins.TimeoutError:
            if (result := await self.result(id)) is not None:
                return result  # it was there: a timeout may be too short to ask even once
            waited_s = time.monotonic() - began
            raise wait_timeout([id], waited_s, await self.workers_alive()) from None

    async def stream(
        self,
        id: str,
        timeout: float | None = None,  # noqa: ASYNC109 - as for wait
    ) -> AsyncGenerator[Event, None]:
        """What happens to an item, as it happens; see ``Client.stream``."""
        redis = await self._connected()
        following, patience = Following(id), Patience(self.settings.away_timeout_s, timeout)
        while not following.ended:
            events = await self._patiently(
                partial(self._read_events, redis, following, id, patience), patience
            )
            patience.answered(results=bool(events))
            for event in events:
                yield event
            if not events and patience.left() == 0.0:
                raise wait_timeout([id], patience.waited_s, await self.workers_alive())

    async def cancel(self, id: str) -> bool:
        """Let an item end as failed with the code ``cancelled``; see ``Client.cancel``."""
        args = cancel_args(id, self.settings)
        redis = await self._connected()
        with redis_errors(self._url):
            before = await redis.register_script(CANCEL_SCRIPT)(keys=cancel_keys(id), args=args)
        return was_cancelled(parse_result(before, id) if before else None)

    async def workers_alive(self) -> int:
        """How many workers have a living heartbeat."""
        redis = await self._connected()
        with redis_errors(self._url):
            keys = list(await redis.smembers(REDIS_WORKER_KEYS))
            return int(await redis.exists(*keys)) if keys else 0

    async def connection(self) -> Redis:
        """The client of ``redis-py`` that this one uses, connected; it stays this client's own. Raises
        ``Unavailable``."""
        return await self._connected()

    async def _connected(self) -> Redis:
        async with self._connecting:
            if self._redis is None:
                self._redis = await connect_async(self.settings)
        return self._redis

    async def _read(self, redis: Redis, waiting: Waiting, patience: Patience) -> list[Result]:
        if waiting.fresh:
            return waiting.fetched(await redis.mget(waiting.keys()))
        block = patience.block_ms(block_s(redis))
        return waiting.arrived(await redis.xread(waiting.streams, block=block))

    async def _read_events(
        self, redis: Redis, following: Following, id: str, patience: Patience
    ) -> list[Event]:
        if following.at_start:
            if found := following.arrived(await redis.xread(following.streams)):
                return found
            if (value := await redis.get(result_key(id))) is not None:
                # Its events may have come just now, between the two.
                return following.arrived(await redis.xread(following.streams)) or following.fetched(value)
        block = patience.block_ms(block_s(redis))
        return following.arrived(await redis.xread(following.streams, block=block))

    async def _enqueue(
        self, redis: Redis, jobs: list[QueuedJob], on_full: OnFull | None, full_timeout: float | None
    ) -> None:
        admission = Admission(self._maker.gate, jobs, on_full, full_timeout)
        while batch := admission.next():
            # What was sent already, and only the reply was lost, is known to the script.
            replies = await self._patiently(
                partial(self._send, redis, batch), Patience(self.settings.away_timeout_s)
            )
            if pause_s := admission.answered(replies):
                await asyncio.sleep(pause_s)

    async def _send(self, redis: Redis, jobs: list[QueuedJob]) -> list[Any]:
        """The script's reply to each job."""
        script = redis.register_script(ENQUEUE_SCRIPT)
        try:
            async with redis.pipeline(transaction=False) as pipe:
                for job in jobs:
                    await script(keys=job.keys, args=self._maker.gate.script_args(job), client=pipe)
                return await pipe.execute()
        except OutOfMemoryError:
            return [no_memory(await redis.info("memory"))] * len(jobs)

    async def _patiently(self, call: Callable[[], Awaitable[T]], patience: Patience) -> T:
        """What ``call`` gives once Redis is there. Raises ``Unavailable``."""
        while True:
            try:
                return await call()
            except AWAY as error:
                await asyncio.sleep(patience.away(unreachable(self._url, error)))
            except RedisError as error:
                raise unreachable(self._url, error) from error


async def _as_async(values: Iterable[T]) -> AsyncIterator[T]:
    for value in values:
        yield value


async def _take(source: AsyncIterator[str], count: int) -> AsyncIterator[str]:
    for _ in range(count):
        try:
            yield await anext(source)
        except StopAsyncIteration:
            return
