"""Rows to results: sent in jobs of many, awaited over one connection, given in order, in bounded memory."""

from __future__ import annotations

import random
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice

from moodq_config.contracts import RequestItem, Result
from moodq_config.errors import BadInput
from moodq_producer.bulk.rows import Row
from moodq_producer.client import Client
from moodq_producer.screen import bad_input_result
from moodq_producer.waiting import Feed

#: Items of one job.
CHUNK = 100
#: Rows that are read and sent before results are looked at again, and how many sent ones wait for that.
ROWS_AT_ONCE = 1_000
#: Rows between the first whose result is missing and the last that was sent.
WINDOW = 10_000
#: Different texts whose results ``--dedupe`` remembers.
REMEMBERED = 100_000


@dataclass(frozen=True, slots=True)
class Tagged:
    row: Row
    result: Result


@dataclass(slots=True)
class _Underway:
    """A row on its way; ``result`` is None until it is there."""

    row: Row
    result: Result | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """``run`` makes the items' ids; ``skip`` rows, and those of ``beyond``, are done already; ``sample`` is
    the share of rows to take, chosen by their numbers and so the same again."""

    tasks: tuple[str, ...]
    run: str
    queue: str
    lang: str | None = None
    ordered: bool = True
    dedupe: bool = False
    sample: float = 1.0
    skip: int = 0
    beyond: frozenset[int] = frozenset()
    idle_timeout_s: float | None = None


class Tagging:
    """Give the rows of one run with their results: iterate. ``rows_done`` and ``beyond`` tell how far what
    has been given reaches, and ``reused`` how many results came from an equal text of the run."""

    def __init__(self, client: Client, rows: Iterable[Row], plan: Plan) -> None:
        self._client = client
        self._plan = plan
        self._prefix = client.settings.id_prefix
        self._rows = self._chosen(rows)
        self._underway: deque[_Underway] = deque()
        self._by_id: dict[str, _Underway] = {}
        self._sent: deque[str] = deque()
        self._read_all = False
        self._ready: deque[_Underway] = deque()
        self._first: OrderedDict[bytes, _Underway] = OrderedDict()
        self._like: dict[int, list[_Underway]] = {}
        self._given: set[int] = set(plan.beyond)
        self.rows_done = plan.skip
        self.reused = 0

    @property
    def beyond(self) -> list[int]:
        """Rows that were given though one before them was not; none of an ordered run."""
        return sorted(self._given)

    def __iter__(self) -> Iterator[Tagged]:
        while not self._read_all or self._by_id:
            feed = Feed(self._next_id)
            for result in self._client.wait(feed, idle_timeout=self._plan.idle_timeout_s):
                one = self._by_id.pop(result.id)
                for other in (one, *self._like.pop(one.row.number, ())):
                    other.result = result
                    self._ended(other)
                yield from self._leave()
            yield from self._leave()

    def _next_id(self) -> str | None:
        """The next id to wait for; None while there is none, or no room."""
        if not self._sent and not self._read_all and len(self._underway) < WINDOW:
            self._send(list(islice(self._rows, ROWS_AT_ONCE)))
        return self._sent.popleft() if self._sent else None

    def _send(self, rows: list[Row]) -> None:
        self._read_all = not rows
        items = [item for row in rows if (item := self._item(row)) is not None]
        tickets = self._client.submit_many(
            items, self._plan.tasks, queue=self._plan.queue, chunk=CHUNK, on_full="wait"
        )
        self._sent += (ticket.id for ticket in tickets)

    def _chosen(self, rows: Iterable[Row]) -> Iterator[Row]:
        plan = self._plan
        for row in rows:
            if row.number < plan.skip or row.number in plan.beyond:
                continue
            if plan.sample < 1.0 and random.Random(row.number).random() >= plan.sample:  # noqa: S311
                if not self._underway:
                    self.rows_done = row.number + 1
                continue
            yield row

    def _item(self, row: Row) -> RequestItem | None:
        """What is to be sent for ``row``; None when its result is known, or comes with another's."""
        plan, one = self._plan, _Underway(row)
        self._underway.append(one)
        # The content too: a file that was changed before its run was gone on with gets no old answer.
        key = blake2b(row.text.encode(), digest_size=16)
        id = f"{self._prefix}{plan.run}-{row.number}-{key.hexdigest()[:8]}"
        try:
            if row.error is not None:
                raise row.error
            item = self._client.check(row.text, plan.tasks, id=id, lang=plan.lang)
        except BadInput as error:
            one.result = bad_input_result(id, str(error.code), error.message)
            self._ended(one)
            return None
        if plan.dedupe and self._joins(one, key.digest()):
            return None
        self._by_id[id] = one
        return item

    def _joins(self, one: _Underway, key: bytes) -> bool:
        """Whether an equal text is under way or done; ``one`` then shares its result."""
        first = self._first.get(key)
        if first is None:
            self._first[key] = one
            if len(self._first) > REMEMBERED:
                self._first.popitem(last=False)
            return False
        self._first.move_to_end(key)
        self.reused += 1
        if first.result is not None:
            one.result = first.result
            self._ended(one)
        else:
            self._like.setdefault(first.row.number, []).append(one)
        return True

    def _ended(self, one: _Underway) -> None:
        if not self._plan.ordered:
            self._ready.append(one)

    def _leave(self) -> Iterator[Tagged]:
        while self._ready:
            one = self._ready.popleft()
            self._given.add(one.row.number)
            yield Tagged(one.row, _known(one))
        while self._underway and self._underway[0].result is not None:
            one = self._underway.popleft()
            self._given.discard(one.row.number)
            self.rows_done = one.row.number + 1
            if self._plan.ordered:
                yield Tagged(one.row, _known(one))


def _known(one: _Underway) -> Result:
    assert one.result is not None  # noqa: S101 - callers look
    return one.result
