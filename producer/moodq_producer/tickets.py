"""What a submit gives: an id, and the verbs of its client that need no more than that."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from moodq_config.contracts import Result
from moodq_producer.following import Event

if TYPE_CHECKING:
    from moodq_producer.async_client import AsyncClient
    from moodq_producer.client import Client


@dataclass(frozen=True, slots=True)
class Ticket:
    """What ``submit`` gives for one text: its id, and the way to its result."""

    id: str
    _client: Client = field(repr=False, compare=False)

    def wait(self, timeout: float | None = None) -> Result:
        """The result, as soon as it is there. Raises ``WaitTimeout`` after ``timeout`` seconds."""
        return next(self._client.wait([self.id], timeout))

    def result(self) -> Result | None:
        """The result if it is there now."""
        return self._client.result(self.id)

    def cancel(self) -> bool:
        """Do not run it; see ``Client.cancel``."""
        return self._client.cancel(self.id)

    def stream(self, timeout: float | None = None) -> Iterator[Event]:
        """Its labels, its reply in pieces, its result; see ``Client.stream``."""
        return self._client.stream(self.id, timeout)


@dataclass(frozen=True, slots=True)
class AsyncTicket:
    """What ``AsyncClient.submit`` gives for one text: its id, and the way to its result."""

    id: str
    _client: AsyncClient = field(repr=False, compare=False)

    async def wait(self, timeout: float | None = None) -> Result:  # noqa: ASYNC109 - as in the sync client
        """The result, as soon as it is there. Raises ``WaitTimeout`` after ``timeout`` seconds."""
        return await self._client._wait_for(self.id, timeout)

    async def result(self) -> Result | None:
        """The result if it is there now."""
        return await self._client.result(self.id)

    async def cancel(self) -> bool:
        """Do not run it; see ``Client.cancel``."""
        return await self._client.cancel(self.id)

    def stream(self, timeout: float | None = None) -> AsyncGenerator[Event, None]:
        """Its labels, its reply in pieces, its result; see ``Client.stream``."""
        return self._client.stream(self.id, timeout)
