"""What the routes share: the client, the hub of event streams, keys, rates, metrics. One set a process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import cast

from fastapi import Request
from prometheus_client import Gauge

from moodq_config.contracts import Result
from moodq_config.errors import ErrorCode, Unavailable
from moodq_config.settings import Settings, server_url
from moodq_config.task_file import TaskFile
from moodq_producer.async_client import AsyncClient
from moodq_producer.exporter.reading import Reader
from moodq_producer.gateway.callbacks.delivery import Callbacks
from moodq_producer.gateway.event_hub import EventHub
from moodq_producer.gateway.keys import Keys
from moodq_producer.gateway.latency import LatencyNow
from moodq_producer.gateway.metrics import GatewayMetrics
from moodq_producer.gateway.rates import Rates
from moodq_producer.gateway.speed import Speed


@dataclass(slots=True)
class Services:
    """Made by ``make_services``; routes get it from ``services_of``."""

    settings: Settings
    client: AsyncClient
    hub: EventHub
    keys: Keys
    rates: Rates
    metrics: GatewayMetrics
    tasks: TaskFile
    callbacks: Callbacks
    reader: Reader
    speed: Speed = field(default_factory=Speed)
    ending: bool = False
    latency: LatencyNow = field(default_factory=LatencyNow)
    _open: int = 0
    _waits: set[asyncio.Timeout] = field(default_factory=set)

    @contextmanager
    def held_open(self, gauge: Gauge) -> Iterator[None]:
        """One wait or stream. Raises ``Unavailable`` (too_many_open)."""
        most = self.settings.gateway_max_open
        if self._open >= most:
            raise Unavailable(
                f"{most} waits and streams are open; try again in a moment, poll GET /v1/results/ID instead, "
                "or raise MOODQ_GATEWAY_MAX_OPEN",
                code=ErrorCode.TOO_MANY_OPEN,
            )
        self._open += 1
        gauge.inc()
        try:
            yield
        finally:
            self._open -= 1
            gauge.dec()

    async def wait(self, id: str, wait_s: float) -> Result | None:
        """The result of an item once it is there; None after ``wait_s``, or when the process is to end.
        Raises ``Unavailable``."""
        with self.held_open(self.metrics.waits):
            limit = asyncio.timeout(0 if self.ending else wait_s)
            try:
                async with limit:
                    self._waits.add(limit)
                    return await self.client.ticket(id).wait()
            except TimeoutError:
                return await self.client.result(id)
            finally:
                self._waits.discard(limit)

    def hurry(self) -> None:
        """The process is to end: waits end now, as if their time were up, and streams too."""
        self.ending = True
        for limit in self._waits:
            limit.reschedule(asyncio.get_running_loop().time())
        self.hub.let_go()

    async def close(self) -> None:
        """End the reading, and the connections."""
        await self.callbacks.close()
        self.reader.close()
        await self.hub.close()
        await self.client.aclose()


def make_services(settings: Settings, metrics: GatewayMetrics) -> Services:
    """The services. Redis need not be there yet. Raises ``ConfigError``, and ``Unavailable`` when no address
    of it is known."""
    client = AsyncClient(settings)
    return Services(
        settings,
        client,
        EventHub(client.connection, server_url(settings)),
        Keys(settings),
        Rates(settings.gateway_requests_per_s),
        metrics,
        TaskFile(settings.tasks_file),
        Callbacks(settings, metrics),
        Reader(settings, settings.queues),
    )


def services_of(request: Request) -> Services:
    """A dependency of routes."""
    return cast("Services", request.app.state.services)
