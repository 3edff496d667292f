"""Thousands of waits of one event loop over one connection.

Each ``AsyncTicket.wait`` is a future here. One task reads the event streams of all of them with one XREAD; a
wait that begins while it blocks releases it with CLIENT UNBLOCK, so nothing is polled and nothing waits for a
time-out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from moodq_config.contracts import Result
from moodq_producer.connection import AWAY, block_s, unreachable
from moodq_producer.waiting import Patience, Waiting

#: Seconds between two tries to release a read that has not reached the server yet.
UNBLOCK_PAUSE_S = 0.002


class Hub:
    """``connected`` gives the client whose pool is used; ``url`` is for messages only. A Redis that is away
    is waited for, ``away_s`` seconds at most."""

    def __init__(self, connected: Callable[[], Awaitable[Redis]], url: str, away_s: float) -> None:
        self._away_s = away_s
        self._connected = connected
        self._url = url
        self._waiting = Waiting(keep_refused=True)
        self._futures: dict[str, list[asyncio.Future[Result]]] = {}
        self._reader: asyncio.Task[None] | None = None
        self._waker: asyncio.Task[None] | None = None
        self._blocked_as: int | None = None

    async def wait(self, id: str) -> Result:
        """The result of ``id`` as soon as it is there. Raises ``Unavailable`` when Redis stays away."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        if id not in self._futures:
            self._waiting.add([id])
        self._futures.setdefault(id, []).append(future)
        if self._reader is None or self._reader.done():
            self._reader = asyncio.create_task(self._read_all())
        elif self._blocked_as is not None and (self._waker is None or self._waker.done()):
            self._waker = asyncio.create_task(self._wake())
        try:
            return await future
        finally:
            self._forget(id, future)

    async def close(self) -> None:
        """End the reading; who still waits is cancelled."""
        tasks = [task for task in (self._reader, self._waker) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for future in [future for futures in self._futures.values() for future in futures]:
            future.cancel()

    async def _read_all(self) -> None:
        try:
            while self._futures:
                client = (await self._connected()).client()
                try:
                    await self._read(client)
                finally:  # also when ``close`` comes just now
                    await asyncio.shield(client.aclose())
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            for future in [future for futures in self._futures.values() for future in futures]:
                if not future.done():
                    future.set_exception(error)

    async def _read(self, client: Redis) -> None:
        """Over one connection, until nobody waits or it breaks; raises when Redis stays away."""
        patience = Patience(self._away_s)
        while self._futures:
            try:
                found = await self._once(await client.initialize(), patience)
            except AWAY as error:
                await asyncio.sleep(patience.away(unreachable(self._url, error)))
                continue
            except RedisError as error:
                raise unreachable(self._url, error) from error
            patience.answered(results=bool(found))
            for result in found:
                for future in self._ended(result.id):
                    future.set_result(result)
            refused, self._waiting.refused = self._waiting.refused, {}
            for id, refusal in refused.items():
                for future in self._ended(id):
                    future.set_exception(refusal)

    async def _once(self, client: Redis, patience: Patience) -> list[Result]:
        if self._waiting.fresh:
            return self._waiting.fetched(await client.mget(self._waiting.keys()))
        client_id = await client.client_id()
        self._blocked_as = client_id
        try:
            if self._waiting.fresh or not self._waiting.streams:  # came, or left, while the id was asked for
                return []
            return self._waiting.arrived(
                await client.xread(self._waiting.streams, block=patience.block_ms(block_s(client)))
            )
        finally:
            self._blocked_as = None

    async def _wake(self) -> None:
        """Release the blocked read; again and again, for it may just be about to block."""
        redis: Any = await self._connected()
        while self._waiting.fresh and self._blocked_as is not None:
            if await redis.client_unblock(self._blocked_as):
                return
            await asyncio.sleep(UNBLOCK_PAUSE_S)

    def _ended(self, id: str) -> list[asyncio.Future[Result]]:
        """Those that wait for ``id`` still; from here on nobody does."""
        return [future for future in self._futures.pop(id, []) if not future.done()]

    def _forget(self, id: str, future: asyncio.Future[Result]) -> None:
        futures = self._futures.get(id, [])
        if future in futures:
            futures.remove(future)
            if not futures:
                del self._futures[id]
                self._waiting.drop(id)
