"""Redis Streams as a source of records, shared by the consumers of a group.

An entry is acknowledged once its result is written. Until then it is pending: this consumer reads it again
when it starts under the same name, and what a dead consumer left is claimed once nobody has touched it for
``claim_after_s``; a living one touches what it has in hand.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from moodq_config.errors import BadInput
from moodq_config.printable import printable
from moodq_producer.stream.records import Reading, Record

log = logging.getLogger(__name__)

#: Seconds one read blocks at the server; shorter with lists, which are looked at in between.
BLOCK_S, LIST_BLOCK_S = 1.0, 0.1
#: Seconds after which entries may be claimed, at least: living consumers touch theirs twice in that time.
LEAST_CLAIM_S = 2.0
#: Entries whose idle time one command sets back.
TOUCHED_AT_ONCE = 2_000
#: Streams that lists are moved into, entries in their field "text".
LIST_PREFIX = "moodq:list:"

# A list keeps nothing of what was taken from it. So its entries are moved into a stream, in one step.
# KEYS: list, stream. ARGV: entries at most. Producers RPUSH: the oldest is first.
_MOVE = """
local taken = redis.call('LPOP', KEYS[1], ARGV[1])
if not taken then return 0 end
for _, text in ipairs(taken) do redis.call('XADD', KEYS[2], '*', 'text', text) end
return #taken
"""


@dataclass(frozen=True, slots=True)
class Group:
    """``payload`` is the field of an entry that holds the text, or JSON that does. ``from_start``: a group
    that is new begins with what is in the stream already."""

    name: str
    consumer: str
    payload: str = "text"
    claim_after_s: float = 60.0
    from_start: bool = False


@dataclass(frozen=True, slots=True)
class Mark:
    stream: str
    entry: str


class GroupSource:
    """``streams`` and ``lists`` are keys. Its methods may raise ``RedisError``; they can be called again."""

    def __init__(
        self, redis: Redis, group: Group, reading: Reading, streams: Sequence[str], lists: Sequence[str] = ()
    ) -> None:
        self._redis: Any = redis
        self._group = group
        self._reading = reading
        self._lists = {name: LIST_PREFIX + name for name in lists}
        self._keys = [*streams, *self._lists.values()]
        self._shown = {key: name for name, key in self._lists.items()}
        self._made = False
        #: Entry of each stream behind which its own pending ones are still to be read.
        self._own: dict[str, str] = dict.fromkeys(self._keys, "0-0")
        self._in_hand: set[Mark] = set()
        self._touched_at = time.monotonic()
        self._claimed_at = 0.0

    async def read(self, limit: int) -> list[Record]:
        try:
            return await self._read(limit)
        except ResponseError as error:
            if not str(error).startswith(("NOGROUP", "UNBLOCKED")):
                raise
            # The stream was deleted, or the server has forgotten it: whatever is in it is new.
            log.warning("group %s is gone; making it anew", printable(self._group.name))
            await self._make(from_start=True)
            return []
        except RedisError:
            # What the lost answer held is pending now, and this consumer's.
            self._own = dict.fromkeys(self._keys, "0-0")
            raise

    async def _read(self, limit: int) -> list[Record]:
        if not self._made:
            await self._make(from_start=self._group.from_start)
            self._made = True
        now = time.monotonic()
        if self._own:
            return self._records(await self._pending(limit))
        if now - self._claimed_at >= self._group.claim_after_s / 3:
            if claimed := await self._claim(limit):
                return self._records(claimed)  # there may be more
            self._claimed_at = now
        for name, key in self._lists.items():
            await self._redis.eval(_MOVE, 2, name, key, limit)
        block_s = LIST_BLOCK_S if self._lists else BLOCK_S
        reply = await self._redis.xreadgroup(
            self._group.name, self._group.consumer, dict.fromkeys(self._keys, ">"),
            count=max(1, limit // len(self._keys)), block=round(block_s * 1000),
        )  # fmt: skip
        return self._records([(key.decode(), entries) for key, entries in reply or ()])

    async def commit(self, records: Sequence[Record]) -> None:
        by_stream: dict[str, list[str]] = {}
        for record in records:
            by_stream.setdefault(record.mark.stream, []).append(record.mark.entry)
        async with self._redis.pipeline(transaction=True) as pipe:
            for stream, entries in by_stream.items():
                pipe.xack(stream, self._group.name, *entries)
                if stream in self._shown:
                    pipe.xdel(stream, *entries)  # nobody else reads what was moved here
            await pipe.execute()
        self._in_hand.difference_update(record.mark for record in records)

    async def tend(self) -> dict[str, int]:
        """Touch what is in hand; count entries that nobody of the group has read yet, or not acknowledged."""
        now = time.monotonic()
        if self._in_hand and now - self._touched_at >= self._group.claim_after_s / 4:
            self._touched_at = now
            await self._touch()
        lag = {}
        for key in self._keys:
            groups = await self._redis.xinfo_groups(key) if await self._redis.exists(key) else []
            mine = [one for one in groups if one["name"] == self._group.name.encode()]
            # Redis gives no lag when entries were deleted out of the middle.
            lag[self._shown.get(key, key)] = sum(one["pending"] + (one.get("lag") or 0) for one in mine)
        for name in self._lists:
            lag[name] += await self._redis.llen(name)
        return lag

    async def close(self) -> None:
        """Take the consumer off the group, unless it leaves entries behind."""
        for key in self._keys:
            left = await self._redis.xpending_range(
                key, self._group.name, min="-", max="+", count=1, consumername=self._group.consumer
            )
            if not left:
                await self._redis.xgroup_delconsumer(key, self._group.name, self._group.consumer)

    async def _make(self, *, from_start: bool) -> None:
        for key in self._keys:
            start = "0" if from_start or key in self._shown else "$"
            try:
                await self._redis.xgroup_create(key, self._group.name, id=start, mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def _pending(self, limit: int) -> list[tuple[str, list[Any]]]:
        """Entries that this consumer read in an earlier life."""
        reply = await self._redis.xreadgroup(
            self._group.name, self._group.consumer, self._own, count=max(1, limit // len(self._own))
        )
        found = [(key.decode(), entries) for key, entries in reply or ()]
        self._own = {key: entries[-1][0].decode() for key, entries in found if entries}
        for key, entries in found:
            if gone := [entry for entry, fields in entries if not fields]:
                await self._redis.xack(key, self._group.name, *gone)  # trimmed away meanwhile
        return found

    async def _claim(self, limit: int) -> list[tuple[str, list[Any]]]:
        """Entries that nobody has touched for long."""
        found = []
        idle_ms = round(self._group.claim_after_s * 1000)
        for key in self._keys:
            cursor: bytes | str = "0-0"
            while True:
                cursor, entries, *_ = await self._redis.xautoclaim(
                    key, self._group.name, self._group.consumer, idle_ms, cursor, count=limit
                )  # fmt: skip
                if entries or cursor == b"0-0":
                    break
            if entries := [(entry, fields) for entry, fields in entries if entry is not None]:
                found.append((key, entries))
        if count := sum(len(entries) for _, entries in found):
            log.warning("took over %d entries that another consumer had left", count)
        return found

    async def _touch(self) -> None:
        """Set back the idle time of what is in hand, if it is still this consumer's."""
        for key in self._keys:
            mine = await self._redis.xpending_range(
                key, self._group.name, min="-", max="+", count=TOUCHED_AT_ONCE,
                consumername=self._group.consumer,
            )  # fmt: skip
            ids = [id for one in mine if Mark(key, (id := one["message_id"]).decode()) in self._in_hand]
            if ids:
                await self._redis.xclaim(key, self._group.name, self._group.consumer, 0, ids, justid=True)

    def _records(self, found: Sequence[tuple[str, list[Any]]]) -> list[Record]:
        records = []
        for key, entries in found:
            for entry, fields in entries:
                mark = Mark(key, entry.decode())
                if fields and mark not in self._in_hand:
                    self._in_hand.add(mark)
                    records.append(self._record(mark, fields))
        return records

    def _record(self, mark: Mark, fields: dict[bytes, bytes]) -> Record:
        key = blake2b(mark.stream.encode(), digest_size=6).hexdigest()
        id = f"{key}-{mark.entry}"
        origin = {"stream": self._shown.get(mark.stream, mark.stream), "entry": mark.entry}
        reading, payload = self._reading, self._group.payload
        try:
            if (data := fields.get(payload.encode())) is None:
                raise BadInput(f"the entry has no field {payload!r}; name the one of the text with --field")
            text, kept = reading.text(data)
        except BadInput as error:
            return Record(id, origin, mark, error=error)
        if not reading.json:
            kept = {name: _shown(fields.get(name.encode())) for name in reading.kept}
        return Record(id, origin, mark, text.rstrip("\r\n"), kept)


def _shown(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")
