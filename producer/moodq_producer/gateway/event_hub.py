"""Any number of followers of event streams over one connection of Redis.

One task reads the streams of all followers with one XREAD, as ``hub`` does for results; a follower that comes
while it blocks releases it with CLIENT UNBLOCK. Each follower first reads for itself what its stream holds
already, so that it does not matter how far the others are. While Redis is away everybody waits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from moodq_config.errors import Unavailable
from moodq_config.names import events_key, result_key
from moodq_producer.connection import block_s, redis_errors, unreachable
from moodq_producer.hub import UNBLOCK_PAUSE_S

log = logging.getLogger(__name__)

START = "0-0"
#: Seconds between two attempts while Redis is away.
AWAY_PAUSE_S = 0.5
#: Followers that ask at the same time what there is already, each over a connection of the pool.
ASKING_AT_ONCE = 8
#: Entries one follower may be behind; one that reads slower is let go, and comes back where it was.
MOST_BEHIND = 4_096


@dataclass(frozen=True, slots=True)
class Entry:
    """One event as it is in the stream. ``id`` is None for a result whose stream is gone."""

    id: str | None
    event: str
    data: str

    @property
    def last(self) -> bool:
        return self.event == "done"


#: Comes in place of an entry when nothing happened for a while.
SILENCE = Entry(None, "silence", "")
#: What a follower's queue holds when it is let go.
_END = Entry(None, "end", "")

_Queue = asyncio.Queue[Entry]


class EventHub:
    """``connected`` gives the client whose pool is used; ``url`` is for messages only."""

    def __init__(self, connected: Callable[[], Awaitable[Redis]], url: str) -> None:
        self._connected = connected
        self._url = url
        self._followers: dict[str, set[_Queue]] = {}
        self._at: dict[Any, Any] = {}
        self._reader: asyncio.Task[None] | None = None
        self._waker: asyncio.Task[None] | None = None
        self._blocked_as: int | None = None
        self._new = False
        self._asking = asyncio.Semaphore(ASKING_AT_ONCE)

    async def follow(self, id: str, after: str, silence_s: float) -> AsyncGenerator[Entry, None]:
        """The entries of an item's stream after ``after``, up to ``done``; ``SILENCE`` when nothing came for
        ``silence_s`` seconds. Ends early for a follower that is too slow."""
        key, queue = events_key(id), _Queue(MOST_BEHIND)
        self._join(key, queue)
        try:
            last = after
            while (held := await self._held(id, after)) is None:
                yield SILENCE
                await asyncio.sleep(AWAY_PAUSE_S)
            for entry in held:
                yield entry
                if entry.last:
                    return
                last = entry.id or last
            while True:
                try:
                    async with asyncio.timeout(silence_s):
                        entries = [await queue.get()]
                except TimeoutError:
                    yield SILENCE
                    # A stream that was lost and begun again has ids below ours: the result tells of the end.
                    entries = [one for one in await self._now_or_nothing(id, last) if one.last]
                for entry in entries:
                    if entry is _END:
                        return
                    if entry.id is not None and not _after(entry.id, last):
                        continue
                    yield entry
                    if entry.last:
                        return
                    last = entry.id or last
        finally:
            self._leave(key, queue)

    async def now(self, id: str, after: str) -> list[Entry]:
        """What the stream holds after ``after``; its result when the stream itself is gone. Raises
        ``Unavailable``."""
        redis = await self._connected()
        with redis_errors(self._url):
            async with self._asking, redis.pipeline(transaction=True) as pipe:
                pipe.xrange(events_key(id), min=f"({after}")
                pipe.get(result_key(id))
                pipe.exists(events_key(id))
                raw, result, streamed = await pipe.execute()
        entries = [_entry(entry_id, fields) for entry_id, fields in raw]
        if result is not None and not streamed:
            entries.append(Entry(None, "done", result.decode("utf-8", "replace")))
        return entries

    async def close(self) -> None:
        """End the reading, and every follower."""
        tasks = [task for task in (self._reader, self._waker) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.let_go()

    def let_go(self) -> None:
        """End every follower; each may come back where it was."""
        for queue in [queue for queues in self._followers.values() for queue in queues]:
            _end(queue)

    async def _held(self, id: str, after: str) -> list[Entry] | None:
        try:
            return await self.now(id, after)
        except Unavailable:
            return None

    async def _now_or_nothing(self, id: str, after: str) -> list[Entry]:
        redis = await self._connected()
        try:
            async with self._asking, redis.pipeline(transaction=True) as pipe:
                pipe.xrevrange(events_key(id), count=1)
                pipe.get(result_key(id))
                raw, result = await pipe.execute()
        except RedisError:
            return []  # away: the reader waits for it
        if result is None:
            return []
        entry_id = raw[0][0].decode() if raw and raw[0][1].get(b"event") == b"done" else None
        if entry_id is not None and _after(entry_id, after):
            return []  # it is on its way through the reader
        return [Entry(None, "done", result.decode("utf-8", "replace"))]

    def _join(self, key: str, queue: _Queue) -> None:
        self._followers.setdefault(key, set()).add(queue)
        if key not in self._at:
            self._at[key] = START  # not where this follower says it is: others may come
            self._new = True
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read_all())
        elif self._new and self._blocked_as is not None and (self._waker is None or self._waker.done()):
            self._waker = asyncio.create_task(self._wake())

    def _leave(self, key: str, queue: _Queue) -> None:
        queues = self._followers.get(key, set())
        queues.discard(queue)
        if not queues:
            self._followers.pop(key, None)
            self._at.pop(key, None)

    async def _read_all(self) -> None:
        """Until nobody follows. Redis may be away for as long as it likes."""
        away = False
        while self._at:
            try:
                client = (await self._connected()).client()
                try:
                    await client.initialize()
                    if away:
                        log.info("Redis answers again; %d streams are followed on", len(self._at))
                        away = False
                    while self._at:
                        await self._read(client)
                finally:
                    await asyncio.shield(client.aclose())
            except (RedisError, OSError, Unavailable) as error:
                if not away:
                    told = error if isinstance(error, Unavailable) else unreachable(self._url, error)
                    log.warning("%s; streams wait for it", told.message)
                away = True
                await asyncio.sleep(AWAY_PAUSE_S)
            except Exception as error:
                log.error("reading event streams failed", exc_info=error)
                self.let_go()
                return

    async def _read(self, client: Redis) -> None:
        client_id = await client.client_id()
        if not self._at:
            return  # the last follower left meanwhile
        self._new, self._blocked_as = False, client_id
        try:
            reply: Any = await client.xread(dict(self._at), block=round(1000 * block_s(client)))
        finally:
            self._blocked_as = None
        for name, entries in reply or ():
            key = name.decode()
            for entry_id, fields in entries:
                if key not in self._at:
                    break
                self._at[key] = entry_id.decode()
                entry = _entry(entry_id, fields)
                for queue in self._followers.get(key, ()):
                    if queue.full():
                        _end(queue)
                    else:
                        queue.put_nowait(entry)

    async def _wake(self) -> None:
        """Release the blocked read; again and again, for it may just be about to block."""
        try:
            redis: Any = await self._connected()
            while self._new and self._blocked_as is not None:
                if await redis.client_unblock(self._blocked_as):
                    return
                await asyncio.sleep(UNBLOCK_PAUSE_S)
        except RedisError as error:
            log.debug("a read was not released: %s", error)  # it ends by itself, or with the connection


def _entry(entry_id: bytes, fields: dict[bytes, bytes]) -> Entry:
    event = fields.get(b"event", b"").decode("ascii", "replace")
    return Entry(entry_id.decode(), event, fields.get(b"data", b"").decode("utf-8", "replace"))


def _after(one: str, other: str) -> bool:
    return _place(one) > _place(other)


def _place(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)


def _end(queue: _Queue) -> None:
    while queue.full():
        queue.get_nowait()
    queue.put_nowait(_END)
