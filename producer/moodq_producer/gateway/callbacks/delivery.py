"""Sends results to where they were asked to: waits for each, signs it, sends it, and again if need be.

A client of its own waits for the results: thousands of them must not slow down who waits at ``/v1/analyze``.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from importlib.metadata import version

import httpx
from redis.exceptions import RedisError

from moodq_config.errors import BadInput, ErrorCode, MoodqError
from moodq_config.settings import Settings, server_url
from moodq_producer.async_client import AsyncClient
from moodq_producer.connection import redis_errors
from moodq_producer.gateway.callbacks.addresses import check_url, resolve
from moodq_producer.gateway.callbacks.pending import LEASE_S, Callback, Pending
from moodq_producer.gateway.callbacks.signing import secret_of, signed_headers
from moodq_producer.gateway.metrics import GatewayMetrics

log = logging.getLogger(__name__)

#: Seconds between two looks at what is due.
LOOK_EVERY_S = 0.5
#: Callbacks one gateway has in hand, and requests under way at once.
MOST_IN_HAND, MOST_REQUESTS = 2_000, 32
#: Seconds one wait for a result lasts before it is looked whether the callback is still owed.
WAIT_S = 60.0
LONGEST_PAUSE_S = 3_600.0


class Callbacks:
    """``start`` when the app starts, ``close`` when it ends. ``tls`` trusts other authorities than usual."""

    def __init__(
        self, settings: Settings, metrics: GatewayMetrics, tls: ssl.SSLContext | None = None
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._tls = tls or httpx.create_ssl_context()
        self._client = AsyncClient(settings)
        self._url = server_url(settings)
        self._in_hand: dict[str, asyncio.Task[None]] = {}
        self._requests = asyncio.Semaphore(MOST_REQUESTS)
        self._loop: asyncio.Task[None] | None = None

    def check(self, url: object) -> str:
        """The URL, if results may be sent to it. Raises ``BadInput`` (callback_refused)."""
        if self._settings.gateway_callback_secret is None:
            raise BadInput(
                "field 'callback_url': callbacks are not set up here; set MOODQ_GATEWAY_CALLBACK_SECRET",
                code=ErrorCode.CALLBACK_REFUSED,
                field="callback_url",
            )
        return check_url(url, private=self._settings.gateway_callback_private)

    async def owe(self, item: str, url: str, key: str) -> Callback:
        """Note it, before the item is sent. ``undo`` it when the item is not. Raises ``Unavailable``."""
        callback = Callback(item, url, key)
        pending = await self._pending()
        with redis_errors(self._url):
            if await pending.register(callback) and len(self._in_hand) < MOST_IN_HAND:
                self._take(callback.name)
        return callback

    async def undo(self, callback: Callback) -> None:
        """The item was refused: nothing is owed."""
        if task := self._in_hand.pop(callback.name, None):
            task.cancel()
        pending = await self._pending()
        with redis_errors(self._url):
            await pending.forget(callback.name)

    def start(self) -> None:
        """Look after what is owed, also from before, by any gateway."""
        if self._settings.gateway_callback_secret is not None:
            self._loop = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Leave what is owed to whoever comes next."""
        tasks = [*self._in_hand.values(), *([self._loop] if self._loop else [])]
        names = list(self._in_hand)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            if names:
                await (await self._pending()).look_again(names, 0)
        except (RedisError, MoodqError) as error:
            log.warning("%d callbacks wait for their lease to end: %s", len(names), error)
        await self._client.aclose()

    async def _pending(self) -> Pending:
        settings = self._settings
        return Pending(
            await self._client.connection(), most=settings.gateway_max_callbacks, ttl_s=settings.max_ttl_s
        )

    async def _run(self) -> None:
        renewed = time.monotonic()
        while True:
            try:
                pending = await self._pending()
                for name in await pending.claim(max(0, MOST_IN_HAND - len(self._in_hand))):
                    if name not in self._in_hand:
                        self._take(name)
                if time.monotonic() - renewed > LEASE_S / 3:
                    await pending.look_again(list(self._in_hand), LEASE_S)
                    renewed = time.monotonic()
            except (RedisError, OSError, MoodqError) as error:
                log.warning("callbacks wait: %s", error)
                await asyncio.sleep(LOOK_EVERY_S)
            await asyncio.sleep(LOOK_EVERY_S)

    def _take(self, name: str) -> None:
        task = asyncio.create_task(self._see_to(name))
        self._in_hand[name] = task
        task.add_done_callback(lambda _: self._in_hand.pop(name, None))

    async def _see_to(self, name: str) -> None:
        """One attempt, once the result is there. What cannot be noted is done again after the lease."""
        try:
            pending = await self._pending()
            callback = await pending.read(name)
            while callback is not None and callback.body is None:
                body = await self._result(callback.item)
                if body is not None:
                    await pending.keep(name, body=body)
                callback = await pending.read(name)
            if callback is not None:
                await self._attempt(pending, callback)
        except (RedisError, OSError, MoodqError) as error:
            log.warning("callback %s waits: %s", name, error)

    async def _result(self, item: str) -> bytes | None:
        try:
            async with asyncio.timeout(WAIT_S):
                result = await self._client.ticket(item).wait()
        except TimeoutError:
            return None
        return result.model_dump_json(exclude_none=True).encode()

    async def _attempt(self, pending: Pending, callback: Callback) -> None:
        name, attempts = callback.name, callback.attempts + 1
        try:
            async with self._requests:
                status = await self._send(callback)
        except BadInput as error:
            outcome, told = "refused", error.message
        except (httpx.HTTPError, OSError, TimeoutError) as error:
            outcome, told = "failed", type(error).__name__
        else:
            outcome, told = ("delivered" if 200 <= status < 300 else "failed"), f"status {status}"
            if status == httpx.codes.GONE:
                outcome = "given_up"
        if outcome == "failed" and attempts >= self._settings.gateway_callback_attempts:
            outcome = "given_up"
        self._metrics.callbacks.labels(outcome).inc()
        level = logging.INFO if outcome == "delivered" else logging.WARNING
        log.log(level, "callback of %s %s: %s, attempt %d", callback.item, outcome, told, attempts)
        if outcome != "failed":
            await pending.forget(name)
            return
        await pending.keep(name, attempts=attempts)
        await pending.look_again([name], self._pause_s(attempts))

    async def _send(self, callback: Callback) -> int:
        """The status of the answer; its body is not read, and no redirection followed."""
        secret = self._settings.gateway_callback_secret
        body = callback.body
        if secret is None or body is None:
            raise RuntimeError("a callback without secret or body")
        private = self._settings.gateway_callback_private
        url = httpx.URL(check_url(callback.url, private=private))  # the settings may have changed since
        host = url.raw_host.decode()
        port = url.port or (443 if url.scheme == "https" else 80)
        address = await resolve(host, port, private=private)
        headers = {
            "Host": url.netloc.decode(),
            "Content-Type": "application/json",
            "User-Agent": f"moodq/{version('moodq')}",
            **signed_headers(
                secret_of(secret.get_secret_value(), callback.key), callback.name, int(time.time()), body
            ),
        }
        timeout_s = self._settings.gateway_callback_timeout_s
        async with (
            asyncio.timeout(timeout_s),
            httpx.AsyncClient(verify=self._tls, trust_env=False, timeout=timeout_s) as client,
            client.stream(
                "POST",
                url.copy_with(host=address),
                content=body,
                headers=headers,
                extensions={"sni_hostname": host},
            ) as answer,
        ):
            return answer.status_code

    def _pause_s(self, attempts: int) -> float:
        longest = min(
            LONGEST_PAUSE_S, self._settings.gateway_callback_backoff_s * 2.0 ** min(attempts - 1, 30)
        )
        return longest * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
