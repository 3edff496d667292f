"""One growing file, by its identity and not by its name: what was added to it, as lines.

``files`` has one for every file it follows. The open descriptor holds the inode, so a file that is renamed
or deleted is read to its end.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from hashlib import blake2b
from uuid import uuid4

from moodq_producer.stream.multiline import Line

#: Bytes of one read, and of the longest line; of a longer one the beginning is kept.
BLOCK_BYTES = 64 * 1024
MAX_LINE_BYTES = 256 * 1024
#: First bytes of a file by which it is known again, beside its inode.
HEAD_BYTES = 256

#: Device and inode.
Identity = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Head:
    """Digest of a file's first ``bytes``."""

    bytes: int = 0
    digest: str = ""


class Tail:
    """``name`` is what records call it; the file at ``path`` may have been renamed since. ``generation``
    names its content in the ids of records: a file that was truncated, or another one with the same inode,
    has another. Raises ``OSError``.

    The bytes before ``offset`` were given; reading goes on there.
    """

    def __init__(self, path: str, *, name: str = "", offset: int = 0, generation: str = "") -> None:
        self.name = name or path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        found = os.fstat(self._fd)
        self.identity: Identity = (found.st_dev, found.st_ino)
        self._begin(offset, generation)

    def _begin(self, offset: int, generation: str = "") -> None:
        self.generation = generation or uuid4().hex[:12]
        self.offset = offset
        self._read_to = offset
        self._buffer = bytearray()
        self._searched = 0
        self._cut: bytes | None = None
        self._dropped = 0
        self.head = self._head(HEAD_BYTES)

    @property
    def size(self) -> int:
        return os.fstat(self._fd).st_size

    @property
    def changed_at(self) -> int:
        """Nanoseconds, of the file system's clock."""
        return os.fstat(self._fd).st_mtime_ns

    @property
    def at_end(self) -> bool:
        """Whether ``lines`` has given all that there is."""
        return self._read_to == self.size and self._searched == len(self._buffer) and not self.truncated()

    def begins_with(self, head: Head) -> bool:
        return self._head(head.bytes) == head

    def truncated(self) -> bool:
        """Whether what was read is not there any more: the file is shorter, or begins otherwise."""
        return self.size < self._read_to or not self.begins_with(self.head)

    def start_over(self) -> None:
        """After a truncation: from the beginning, as another file."""
        self._begin(0)

    def skip(self) -> None:
        """Leave out the lines that are there now; one without its end is read from its beginning."""
        size = self.size
        last = os.pread(self._fd, MAX_LINE_BYTES, max(0, size - MAX_LINE_BYTES))
        self._begin(size - len(last) + last.rfind(b"\n") + 1 if last else 0, self.generation)

    def lines(self, limit: int) -> list[Line]:
        """Up to ``limit`` further lines that have their end."""
        if self.head.bytes < HEAD_BYTES:
            self.head = self._head(HEAD_BYTES)
        found: list[Line] = []
        while len(found) < limit:
            at = self._buffer.find(b"\n", self._searched)
            if at >= 0:
                found.append(self._taken(at, 1))
                continue
            self._searched = len(self._buffer)
            if len(self._buffer) > MAX_LINE_BYTES:
                if self._cut is None:
                    self._cut = bytes(self._buffer[:MAX_LINE_BYTES])
                self._dropped += len(self._buffer)
                self._buffer.clear()
                self._searched = 0
            block = os.pread(self._fd, BLOCK_BYTES, self._read_to)
            if not block:
                break
            self._buffer += block
            self._read_to += len(block)
        return found

    def rest(self) -> list[Line]:
        """What was read and not given, when nothing more is to come: the last line may have no end."""
        found = []
        while (at := self._buffer.find(b"\n")) >= 0:
            found.append(self._taken(at, 1))
        if self._buffer or self._cut is not None:
            found.append(self._taken(len(self._buffer), 0))
        return found

    def close(self) -> None:
        os.close(self._fd)

    def _taken(self, length: int, line_end: int) -> Line:
        start, end = self.offset, self.offset + self._dropped + length + line_end
        data = bytes(self._buffer[:length]) if self._cut is None else self._cut
        cut = self._cut is not None
        del self._buffer[: length + line_end]
        self._searched, self._dropped, self._cut = 0, 0, None
        self.offset = end
        return Line(start, end, data.removesuffix(b"\r"), cut)

    def _head(self, length: int) -> Head:
        first = os.pread(self._fd, length, 0)
        return Head(len(first), blake2b(first, digest_size=8).hexdigest())
