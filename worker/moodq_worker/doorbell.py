"""Waits for a job without taking it: an idle worker hears of a push within milliseconds.

One thread per queue blocks on ``BLMOVE queue queue LEFT LEFT``: the server moves the head of the list onto
the head of the same list, which changes nothing and returns as soon as there is a head. Claiming is left to
``rq_worker``'s script, which takes many jobs at once; a blocking pop would take one, and lose it in a crash.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Collection, Mapping

from redis import Redis
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

#: Seconds one BLMOVE blocks at most, or half of a shorter socket_timeout that the URL may ask for.
BLOCK_S = 5
#: Seconds between tries while the server cannot be reached.
BACKOFF_S = (0.1, 0.5, 1.0, 2.0)
#: Seconds ``close`` waits for the threads.
JOIN_S = 1.0


class Doorbell:
    """``wait`` is for one thread at a time; ``wake`` and ``close`` are for any.

    The threads ask the server only on behalf of a ``wait``: a worker that does not claim (suspended, full)
    costs nothing, however long the queue is.
    """

    def __init__(self, connection: Redis, lists: Mapping[str, str]) -> None:
        """``lists`` maps each queue's name to the key of its list."""
        self._connection = connection
        asked = connection.connection_pool.connection_kwargs.get("socket_timeout")
        self._block_s = min(BLOCK_S, asked / 2) if asked else BLOCK_S
        self._changed = threading.Condition()
        self._round = 0
        self._waited_for: frozenset[str] = frozenset()
        self._rung = False
        self._woken = False
        self._closed = False
        self._blocked: dict[str, int] = {}
        self._threads = [
            threading.Thread(target=self._listen, args=(name, key), name=f"doorbell-{name}", daemon=True)
            for name, key in lists.items()
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def wait(self, timeout_s: float, queues: Collection[str]) -> bool:
        """Return True as soon as one of ``queues`` has a job, False on ``wake``, ``close`` or time-out."""
        with self._changed:
            self._rung = False
            self._waited_for = frozenset(queues)
            self._round += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._rung or self._woken or self._closed, timeout_s)
            self._waited_for = frozenset()
            rung, self._woken = self._rung, False
            return rung

    def wake(self) -> None:
        """End the present ``wait``, or the next one."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def close(self) -> None:
        """Stop the threads; a blocked one is released by the server."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        give_up = time.monotonic() + JOIN_S
        while time.monotonic() < give_up and any(thread.is_alive() for thread in self._threads):
            self._unblock()  # again and again: a thread may just be about to block
            for thread in self._threads:
                if thread.is_alive():
                    thread.join(0.02)

    def _unblock(self) -> None:
        with self._changed:
            blocked = list(self._blocked.values())
        for client_id in blocked:
            try:
                self._connection.client_unblock(client_id)
            except RedisError as error:
                log.debug("doorbell not unblocked: %s", error)

    def _listen(self, name: str, key: str) -> None:
        heard = failures = 0
        while True:
            round_ = self._next_round(name, heard)
            if round_ is None:
                return
            try:
                has_job = self._block(name, key)
            except RedisError as error:
                pause_s = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
                failures += 1
                level = logging.WARNING if failures == 1 else logging.DEBUG
                log.log(level, "doorbell of queue %s: %s; trying again in %.1f s", name, error, pause_s)
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, pause_s)
                continue
            failures = 0
            if has_job:
                heard = round_
                self._ring(name)

    def _next_round(self, name: str, heard: int) -> int | None:
        """Wait until someone waits for this queue and has not been told yet; None on ``close``."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (name in self._waited_for and self._round > heard))
            return None if self._closed else self._round

    def _ring(self, name: str) -> None:
        with self._changed:
            if name in self._waited_for:
                self._rung = True
                self._changed.notify_all()

    def _block(self, name: str, key: str) -> bool:
        client = Redis(connection_pool=self._connection.connection_pool, single_connection_client=True)
        try:
            client_id = client.client_id()
            with self._changed:
                if self._closed:
                    return False
                self._blocked[name] = client_id
            return client.blmove(key, key, self._block_s, "LEFT", "LEFT") is not None
        finally:
            with self._changed:
                self._blocked.pop(name, None)
            client.close()
