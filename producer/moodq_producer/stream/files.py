"""Growing files as a source of records: several, found by name or glob, through rotation and truncation.

A name stands for whichever file is there now; what is followed is the file. When another one takes a name
over, the old one is read to its end first. Generations are on the disk before the first record of a file is
given, so that a record read again after a kill has the id it had.
"""

from __future__ import annotations

import asyncio
import glob
import logging
import os
import stat
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from moodq_config.errors import BadInput, ErrorCode
from moodq_config.printable import printable
from moodq_producer.stream.checkpoint import CheckpointFile, Place
from moodq_producer.stream.multiline import Joiner, Joining, Line
from moodq_producer.stream.records import Reading, Record
from moodq_producer.stream.restoring import restored, rotated_since
from moodq_producer.stream.tail import MAX_LINE_BYTES, Identity, Tail

log = logging.getLogger(__name__)

#: Seconds between two looks at the files, and at the names.
POLL_S, SCAN_S = 0.1, 0.5
#: Seconds a rotated file must have been at its end before the one that took its name is read: its writer may
#: not have been told yet.
GRACE_S = 1.0
#: What a glob may match and is no log: rotated files, compressed.
COMPRESSED = (".gz", ".zst", ".xz", ".bz2")
#: Files open at a time.
MAX_FILES = 500


@dataclass(frozen=True, slots=True)
class Mark:
    """Of a record: its file, and where in it the record ends."""

    followed: Followed
    generation: str
    end: int


@dataclass(slots=True, eq=False)
class Followed:
    """A file that is read. ``after`` is read to its end before it; ``left_at``: no name stands for it any
    more since then; ``committed``: results are written up to there."""

    tail: Tail
    pattern: str
    joiner: Joiner
    committed: int
    after: Followed | None = None
    left_at: float | None = None
    replaced_at: float | None = None
    grew_at: float = 0.0
    under_way: int = 0
    read_out: bool = False
    ready: list[Line] = field(default_factory=list)

    def drained(self, now: float) -> bool:
        """Whether nothing more is to come of a file that was rotated away."""
        since = max(self.grew_at, self.left_at or self.replaced_at or now)
        return self.read_out or (self.after is None and self.tail.at_end and now - since >= GRACE_S)


class FileSource:
    """``from_start``: read what is in the files already, at their first sight. Without a ``checkpoint``
    nothing is remembered. A file that is not there, or cannot be read, is told and looked for again."""

    def __init__(
        self,
        patterns: Sequence[str],
        reading: Reading,
        *,
        joining: Joining | None = None,
        checkpoint: CheckpointFile | None = None,
        from_start: bool = False,
    ) -> None:
        self._patterns = list(patterns)
        self._reading = reading
        self._joining = joining
        self._checkpoint = checkpoint
        self._files: dict[Identity, Followed] = {}
        self._at: dict[str, Followed] = {}
        self._told: set[str] = set()
        #: By name: what has changed since then and is not followed, nobody has looked at.
        self._since: dict[str, int] = {}
        self._scanned_at = 0.0
        self._turn = 0
        self._restore(from_start=from_start)

    async def read(self, limit: int) -> list[Record]:
        now = time.monotonic()
        if now - self._scanned_at >= SCAN_S:
            self._scanned_at = now
            self._scan(now)
        records = self._take(limit, now)
        if not records:
            await asyncio.sleep(POLL_S)
        return records

    async def commit(self, records: Sequence[Record]) -> None:
        for record in records:
            mark: Mark = record.mark
            if mark.generation == mark.followed.tail.generation:
                mark.followed.committed = mark.end
                mark.followed.under_way -= 1
        self._save()

    async def tend(self) -> dict[str, int]:
        self._scan(time.monotonic())  # a file that is open cannot be missed
        lag = dict.fromkeys(self._patterns, 0)
        for one in self._files.values():
            lag[one.pattern] += max(0, one.tail.size - one.committed)
        return lag

    async def close(self) -> None:
        for one in self._files.values():
            one.tail.close()
        if self._checkpoint is not None:
            self._checkpoint.close()

    def _restore(self, *, from_start: bool) -> None:
        """Open the files that are there now, each at the place the checkpoint has of it."""
        found = self._checkpoint.found if self._checkpoint is not None else None
        known = set(found.patterns) if found is not None else set()
        places = found.places if found is not None else []
        since = found.saved_at if found is not None else time.time_ns()
        self._since = {pattern: since for pattern in self._patterns if pattern in known or found is None}
        for tail, rotated in restored(places, [path for path, _ in self._names()]):
            pattern = self._pattern_of(tail.name)
            if pattern is None:
                tail.close()  # it is not asked for any more
                continue
            self._follow(tail, pattern).left_at = time.monotonic() if rotated else None
        for path, pattern in self._names():
            identity = _identity(path)
            if identity is None:
                self._find_missed(path, pattern)
            elif identity not in self._files:
                self._adopt(path, pattern, from_start=from_start or pattern in known)
        if not self._files:
            log.warning("no file is there yet: waiting for %s", ", ".join(map(printable, self._patterns)))
        self._save()

    def _scan(self, now: float) -> None:
        """Find files that are new, renamed or gone."""
        named: set[Identity] = set()
        adopted = False
        for path, pattern in self._names():
            identity = _identity(path)
            if identity is None:
                self._find_missed(path, pattern)
                continue
            named.add(identity)
            if identity not in self._files:
                adopted = self._adopt(path, pattern, from_start=True) or adopted
        for identity, one in list(self._files.items()):
            if identity in named:
                one.left_at = None
            elif one.left_at is None:
                one.left_at = now
        if adopted:
            self._save()

    def _adopt(self, path: str, pattern: str, *, from_start: bool) -> bool:
        if len(self._files) >= MAX_FILES:
            self._tell(f"more than {MAX_FILES} files match; {path} is not read until others have gone")
            return False
        try:
            tail = Tail(path)
        except FileNotFoundError:
            return False  # gone again
        except OSError as error:
            self._tell(f"{path} cannot be read: {error.strerror}")
            return False
        if tail.identity in self._files:
            tail.close()  # renamed just now
            return False
        if not from_start:
            tail.skip()
        self._find_missed(path, pattern, tail.identity[1])
        self._follow(tail, pattern)
        return True

    def _find_missed(self, path: str, pattern: str, now_there: int = 0) -> None:
        """Follow files that had the name and lost it again while nobody looked."""
        before = self._at.get(path)
        since = before.tail.changed_at if before is not None else self._since.get(path)
        if since is not None:
            inodes = {inode for _, inode in self._files} | {now_there}
            for tail in rotated_since(path, since, inodes):
                self._follow(tail, pattern).left_at = time.monotonic()

    def _follow(self, tail: Tail, pattern: str) -> Followed:
        """``tail`` has its name from now on; the file that had it is read to its end first."""
        one = Followed(tail, pattern, Joiner(self._joining), tail.offset)
        before = self._at.get(tail.name)
        if before is not None:
            one.after, before.replaced_at = before, time.monotonic()
        self._files[tail.identity] = self._at[tail.name] = one
        return one

    def _take(self, limit: int, now: float) -> list[Record]:
        """Records of all files in turn."""
        files = list(self._files.values())
        self._turn += 1
        records: list[Record] = []
        for number in range(len(files)):
            one = files[(number + self._turn) % len(files)]
            if one.after is not None:
                if not one.after.drained(now):
                    continue
                one.after = None
            records += self._records(one, limit - len(records), now)
            if len(records) >= limit:
                break
        return records

    def _records(self, one: Followed, limit: int, now: float) -> list[Record]:
        if not one.ready and not one.read_out:
            self._read_on(one, limit, now)
        given, one.ready = one.ready[:limit], one.ready[limit:]
        records = [self._record(one, line) for line in given if line.data.strip()]
        one.under_way += len(records)
        if not one.ready and not one.under_way:
            # Nothing but blank lines since the last record.
            one.committed = one.tail.offset if one.joiner.start is None else one.joiner.start
            if one.read_out:
                self._retire(one)
        return records

    def _read_on(self, one: Followed, limit: int, now: float) -> None:
        tail, joiner = one.tail, one.joiner
        truncated = tail.truncated()
        lines = [] if truncated else tail.lines(limit)
        if lines:
            one.grew_at = now
        for line in lines:
            one.ready += joiner.add(line, now)
        if not lines:
            one.ready += joiner.paused(now)
        if truncated or (one.left_at is not None and one.drained(now)):
            for line in tail.rest():
                one.ready += joiner.add(line, now)
            one.ready += joiner.flush()
            one.read_out = not truncated
            if truncated and not one.ready:
                self._start_over(one)

    def _start_over(self, one: Followed) -> None:
        log.warning("%s was truncated; reading it from its beginning", printable(one.tail.name))
        one.tail.start_over()
        one.committed = one.under_way = 0
        self._save()

    def _retire(self, one: Followed) -> None:
        self._since[one.tail.name] = max(one.tail.changed_at, self._since.get(one.tail.name, 0))
        one.tail.close()
        del self._files[one.tail.identity]
        if self._at.get(one.tail.name) is one:
            del self._at[one.tail.name]
        self._save()

    def _record(self, one: Followed, line: Line) -> Record:
        generation = one.tail.generation
        id = f"{generation}-{line.start}"
        origin = {"file": one.tail.name, "offset": line.start}
        mark = Mark(one, generation, line.end)
        try:
            if line.cut:
                raise BadInput(
                    f"the line has more than {MAX_LINE_BYTES} bytes; split it before",
                    code=ErrorCode.TEXT_TOO_LONG,
                )
            text, kept = self._reading.text(line.data)
        except BadInput as error:
            return Record(id, origin, mark, error=error)
        return Record(id, origin, mark, text, kept)

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        places = [
            Place(
                path=one.tail.name, device=one.tail.identity[0], inode=one.tail.identity[1],
                generation=one.tail.generation, offset=one.committed,
                head_bytes=one.tail.head.bytes, head_digest=one.tail.head.digest,
            )
            for one in self._files.values()
        ]  # fmt: skip
        self._checkpoint.save(self._patterns, places)

    def _names(self) -> Iterator[tuple[str, str]]:
        """Every path there is now, with the pattern it came by."""
        for pattern in self._patterns:
            if not glob.has_magic(pattern):
                yield pattern, pattern
                continue
            for path in sorted(glob.glob(pattern, recursive=True)):
                if not path.endswith(COMPRESSED):
                    yield path, pattern

    def _pattern_of(self, path: str) -> str | None:
        for pattern in self._patterns:
            if path == pattern or (glob.has_magic(pattern) and Path(path).match(pattern)):
                return pattern
        return None

    def _tell(self, message: str) -> None:
        if message not in self._told:
            self._told.add(message)
            log.warning("%s", printable(message))


def _identity(path: str) -> Identity | None:
    """None for what is not there, or no regular file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISREG(found.st_mode) else None
