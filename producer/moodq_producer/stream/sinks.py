"""Where results go: standard output, a file that only grows, or a Redis Stream."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from redis.asyncio import Redis

from moodq_config.errors import ConfigError

#: Bytes read at a time when the end of an output is looked for.
BLOCK_BYTES = 64 * 1024


class Sink(Protocol):
    async def write(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write them all. May be called again with the same ones when it raised ``RedisError``."""

    async def sync(self) -> None:
        """What was written outlives this machine's crash."""

    async def close(self) -> None: ...


class LineSink:
    """One line of JSON a row, to standard output or appended to ``path``. A torn last line, of a kill, is cut
    off: its row was not committed and comes again. Raises ``ConfigError`` when it cannot be opened."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        try:
            self._file: IO[bytes] = sys.stdout.buffer if path is None else _whole_lines(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be written: {error.strerror}") from None

    async def write(self, rows: Sequence[dict[str, Any]]) -> None:
        body = b"".join(_line(row) for row in rows)
        await asyncio.to_thread(self._write, body)  # a pipe that nobody reads must not stop the rest

    async def sync(self) -> None:
        if self._path is not None:
            await asyncio.to_thread(os.fsync, self._file.fileno())

    async def close(self) -> None:
        if self._path is not None:
            self._file.close()

    def _write(self, body: bytes) -> None:
        self._file.write(body)
        self._file.flush()


class StreamSink:
    """Entries of the fields ``id`` and ``data``, JSON; the stream keeps about ``max_entries``. Each call of
    ``write`` is one transaction."""

    def __init__(self, redis: Redis, key: str, max_entries: int) -> None:
        self._redis: Any = redis
        self._key = key
        self._max_entries = max_entries

    async def write(self, rows: Sequence[dict[str, Any]]) -> None:
        async with self._redis.pipeline(transaction=True) as pipe:
            for row in rows:
                entry = {"id": row["id"], "data": json.dumps(row, ensure_ascii=False)}
                pipe.xadd(self._key, entry, maxlen=self._max_entries)
            await pipe.execute()

    async def sync(self) -> None:
        """As durable as the server makes it."""

    async def close(self) -> None:
        """The connection is its owner's."""


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, separators=(", ", ": ")).encode() + b"\n"


def _whole_lines(path: Path) -> IO[bytes]:
    """``path`` opened to append behind its last whole line."""
    file = path.open("a+b")
    end = file.seek(0, os.SEEK_END)
    while end > 0:
        start = max(0, end - BLOCK_BYTES)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            end = start + at + 1
            break
        end = start
    if end < file.seek(0, os.SEEK_END):
        file.truncate(end)
    return file
