"""The files of a run as bytes: found by their names, uncompressed, and how far they have been read."""

from __future__ import annotations

import glob
import gzip
import io
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, cast

from moodq_config.errors import ConfigError, ErrorCode

STDIN = "-"
READ_BYTES = 1 << 17


class Position:
    """How far the reading has come, in bytes of the files as they lie on disk; ``total``: None for a pipe."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.total = None if STDIN in paths else sum(Path(path).stat().st_size for path in paths)
        self._before = 0
        self._raw: IO[bytes] | None = None

    @property
    def done(self) -> int:
        try:
            return self._before + (self._raw.tell() if self._raw is not None and self._raw.seekable() else 0)
        except ValueError:  # closed by now
            return self._before

    def enter(self, raw: IO[bytes]) -> None:
        self._raw = raw

    def leave(self, path: str) -> None:
        self._raw = None
        self._before += Path(path).stat().st_size if path != STDIN else 0


def expand(patterns: Sequence[str]) -> list[str]:
    """The files that ``patterns`` name, in their order, those of one pattern sorted.

    Raises ``ConfigError`` for a pattern that matches nothing.
    """
    paths: list[str] = []
    for pattern in patterns:
        if pattern == STDIN or Path(pattern).is_file():
            paths.append(pattern)
            continue
        found = sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file())
        if not found:
            raise ConfigError(f"{pattern}: no such file; name files, globs, or - for standard input")
        paths += found
    return paths


@contextmanager
def open_file(path: str, position: Position) -> Iterator[IO[bytes]]:
    """The file's bytes, uncompressed. Raises ``ConfigError`` when they cannot be read, also later on."""
    broken: tuple[type[Exception], ...] = (OSError, EOFError, zlib.error)
    try:
        with ExitStack() as opened:
            raw = sys.stdin.buffer if path == STDIN else opened.enter_context(Path(path).open("rb"))
            position.enter(raw)
            if path.endswith(".gz"):
                yield cast("IO[bytes]", opened.enter_context(gzip.open(raw)))
            elif path.endswith(".zst"):
                zstandard = _zstandard(path)
                broken = (*broken, zstandard.ZstdError)
                yield cast("IO[bytes]", io.BufferedReader(_Unpacked(raw, zstandard), READ_BYTES))
            else:
                yield raw
    except broken as error:
        raise ConfigError(f"{path} cannot be read: {error or type(error).__name__}") from None


def _zstandard(path: str) -> Any:
    try:
        import zstandard
    except ModuleNotFoundError:
        raise ConfigError(
            f"{path}: reading .zst needs zstandard; install it with: pip install 'moodq[zst]'",
            code=ErrorCode.NOT_INSTALLED,
        ) from None
    return zstandard


class _Unpacked(io.RawIOBase):
    """A .zst file as it was. The reader that comes with zstandard takes the end of a file that was cut short
    for the end of its content."""

    def __init__(self, raw: IO[bytes], zstandard: Any) -> None:
        self._raw = raw
        self._unpacker = zstandard.ZstdDecompressor()
        self._frame: Any = None
        self._left = b""
        self._unpacked = b""

    def readable(self) -> bool:
        return True

    def readinto(self, into: Any) -> int:
        """Raises ``EOFError`` when the file ends within a frame."""
        while not self._unpacked:
            packed = self._left or self._raw.read(READ_BYTES)
            self._left = b""
            if not packed:
                if self._frame is not None:
                    raise EOFError("it is cut short")
                return 0
            self._frame = self._frame or self._unpacker.decompressobj()
            self._unpacked = self._frame.decompress(packed)
            if self._frame.eof:
                self._left, self._frame = self._frame.unused_data, None
        size = min(len(into), len(self._unpacked))
        into[:size], self._unpacked = self._unpacked[:size], self._unpacked[size:]
        return size
