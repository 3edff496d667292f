"""What a blocking wait has to remember, apart from the connection it reads from.

A wait first GETs the results that are there, then reads the items' event streams from their beginning and
blocks for the next entry. An item that finished in between has its ``done`` event in the stream already, so
no result can be missed, and nothing is polled.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

from moodq_config.contracts import CONTRACT_VERSION, Result
from moodq_config.errors import BadInput, ErrorCode, Unavailable, WaitTimeout
from moodq_config.names import EVENTS_PREFIX, events_key, result_key
from moodq_producer.backoff import backoff_s

log = logging.getLogger(__name__)

#: Streams one read covers; further ids wait until some of these are done.
WINDOW = 256


class Waiting:
    """The ids of one wait: ``fresh`` ones to GET, then the streams to read on.

    A result that cannot be read raises, or with ``keep_refused`` is told in ``refused``, so that it fails
    nobody else's wait.
    """

    def __init__(self, *, keep_refused: bool = False) -> None:
        self._keep_refused = keep_refused
        self.refused: dict[str, BadInput] = {}
        self.fresh: list[str] = []
        self._asked: list[str] = []
        self._streams: dict[str, str] = {}

    @property
    def room(self) -> int:
        return WINDOW - len(self._streams) - len(self.fresh)

    @property
    def pending(self) -> list[str]:
        return [*self.fresh, *(key.removeprefix(EVENTS_PREFIX) for key in self._streams)]

    @property
    def streams(self) -> dict[Any, Any]:
        """Each stream and the id of the last entry seen, as XREAD takes them."""
        return self._streams

    def add(self, ids: Iterable[str]) -> None:
        self.fresh += ids

    def drop(self, id: str) -> None:
        """Wait for it no longer."""
        self._streams.pop(events_key(id), None)
        if id in self.fresh:
            self.fresh.remove(id)

    def keys(self) -> list[str]:
        """Result keys of the fresh ids; ``fetched`` takes their values."""
        self._asked = list(self.fresh)
        return [result_key(id) for id in self._asked]

    def fetched(self, values: Sequence[bytes | str | None]) -> list[Result]:
        """Take what GET found for the fresh ids; the others become streams to read."""
        found = []
        wanted, asked = set(self.fresh), set(self._asked)
        self.fresh = [id for id in self.fresh if id not in asked]  # came after ``keys``
        for id, value in zip(self._asked, values, strict=True):
            if id not in wanted:
                continue  # dropped meanwhile
            if value is None:
                self._streams.setdefault(events_key(id), "0-0")
            else:
                found += self._parsed(id, value)
        return found

    def arrived(self, reply: Any) -> list[Result]:
        """Take the reply of an XREAD; returns the results among its entries."""
        found = []
        for name, entries in reply or ():
            key = name.decode()
            for entry_id, fields in entries:
                if fields.get(b"event") == b"done":
                    found += self._parsed(key.removeprefix(EVENTS_PREFIX), fields.get(b"data", b""))
                    self._streams.pop(key, None)
                    break
                self._streams[key] = entry_id.decode()
        return found

    def _parsed(self, id: str, value: bytes | str) -> list[Result]:
        try:
            return [parse_result(value, id)]
        except BadInput as error:
            if not self._keep_refused:
                raise
            self.refused[id] = error
            return []


class Patience:
    """How long a call goes on: ``timeout`` seconds in all, ``idle_timeout`` seconds without a result,
    ``away_s`` seconds with a Redis that is away (restarting, failing over)."""

    def __init__(
        self, away_s: float, timeout: float | None = None, idle_timeout: float | None = None
    ) -> None:
        self._away_s = away_s
        self._timeout = timeout
        self._idle_timeout = idle_timeout
        self._began = self._last = time.monotonic()
        self._away_since: float | None = None
        self._tries = 0

    def left(self) -> float | None:
        """Seconds left, at least 0; None without an end."""
        ends = []
        if self._timeout is not None:
            ends.append(self._began + self._timeout)
        if self._idle_timeout is not None:
            ends.append(self._last + self._idle_timeout)
        return max(0.0, min(ends) - time.monotonic()) if ends else None

    def block_ms(self, longest_s: float) -> int:
        """Milliseconds for XREAD's BLOCK; never 0, which would mean for ever."""
        left = self.left()
        return max(1, round(1000 * (longest_s if left is None else min(longest_s, left))))

    def answered(self, *, results: bool) -> None:
        """Redis answered. Raises nothing."""
        self._away_since, self._tries = None, 0
        if results:
            self._last = time.monotonic()

    def away(self, unreachable: Unavailable) -> float:
        """Redis did not answer: the seconds to wait before it is asked again. Raises ``unreachable`` when
        that has lasted too long, or time is up."""
        now = time.monotonic()
        if self._away_since is None:
            self._away_since = now
            if self._away_s:
                log.warning("%s; trying for %g s to reach it", unreachable.message, self._away_s)
        away_left_s = self._away_since + self._away_s - now
        if away_left_s <= 0 or self.left() == 0.0:
            raise unreachable
        self._tries += 1
        return min(backoff_s(self._tries), away_left_s)

    @property
    def waited_s(self) -> float:
        return time.monotonic() - self._began


class Feed:
    """An iterator that pauses: it stops while there is nothing, and goes on when it is asked again."""

    def __init__(self, take: Callable[[], str | None]) -> None:
        self._take = take

    def __iter__(self) -> Feed:
        return self

    def __next__(self) -> str:
        id = self._take()
        if id is None:
            raise StopIteration
        return id


class _HasId(Protocol):
    @property
    def id(self) -> str: ...


Ticketed = TypeVar("Ticketed", bound=_HasId)


def joins(ticket: Ticketed, under_way: dict[str, list[Ticketed]]) -> bool:
    """Put ``ticket`` among those under way, which are kept by id; True when it is the first of its id."""
    same = under_way.setdefault(ticket.id, [])
    same.append(ticket)
    return len(same) == 1


def parse_result(value: bytes | str, id: str) -> Result:
    """The stored result of ``id``. Raises ``BadInput`` (wrong_version) when this producer cannot read it."""
    try:
        found = Result.model_validate_json(value)
        if found.id != id:
            raise ValueError("it is another item's")
        return found
    except ValueError as error:
        raise BadInput(
            f"the stored result is not of contract version {CONTRACT_VERSION}; use a producer and a worker "
            "of the same major version",
            code=ErrorCode.WRONG_VERSION,
        ) from error


def wait_timeout(pending: Sequence[str], waited_s: float, workers: int) -> WaitTimeout:
    """What to say when time is up: whether anybody is working on it, and what to do."""
    what = f"no result for {pending[0]}" if len(pending) == 1 else f"no result for {len(pending)} items"
    if workers:
        alive = "1 worker is" if workers == 1 else f"{workers} workers are"
        advice = f"{alive} alive: wait longer, or see what is waiting with `moodq stats`"
    else:
        advice = "no worker is alive: start one with `moodq worker`, or `moodq up` for everything"
    return WaitTimeout(f"{what} within {waited_s:.1f} s; {advice}")
