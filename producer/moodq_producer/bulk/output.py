"""Where records go, and how far a run has come: an output that only grows, and a checkpoint beside it.

The checkpoint names the bytes of the output that belong to the rows it counts, and is replaced as a whole
after these bytes are on the disk. After any kill the output is cut to those bytes, which takes off a torn
line and what was written since, and the run goes on behind the rows that were counted.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from moodq_config.errors import ConfigError

SUFFIX = ".checkpoint"
#: Seconds of work that a kill may cost.
EVERY_S = 2.0


@dataclass(slots=True)
class Checkpoint:
    """``rows`` are done up to there; ``beyond`` are the numbers of later ones that are done too, of an
    unordered run. ``run`` goes into the ids of its items, so that a resumed run finds its own results and
    another run does not. ``terms`` are what must be the same for the output to be of one piece."""

    run: str = field(default_factory=lambda: uuid4().hex[:12])
    rows: int = 0
    beyond: list[int] = field(default_factory=list)
    bytes: int = 0
    reject_bytes: int = 0
    terms: dict[str, Any] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class Output:
    """``write`` records as lines; with a ``path`` resumable."""

    def __init__(self, path: Path | None, rejects: Path | None, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._path = path
        self._file: IO[bytes] = sys.stdout.buffer if path is None else _cut(path, checkpoint.bytes)
        self._rejects = None if rejects is None else _cut(rejects, checkpoint.reject_bytes)
        self._bytes, self._reject_bytes = checkpoint.bytes, checkpoint.reject_bytes
        self._saved_at = time.monotonic()
        if path is not None:
            self._save()

    def write(self, record: dict[str, Any]) -> None:
        self._bytes += self._file.write(_line(record))

    @property
    def takes_rejects(self) -> bool:
        return self._rejects is not None

    def reject(self, record: dict[str, Any]) -> None:
        """To the file of rejects where there is one, else among the records."""
        if self._rejects is None:
            self.write(record)
        else:
            self._reject_bytes += self._rejects.write(_line(record))

    @property
    def due(self) -> bool:
        """Whether it is time to ``save``."""
        return time.monotonic() - self._saved_at >= EVERY_S

    def save(self, rows: int, beyond: list[int], counts: dict[str, int]) -> None:
        """All rows before ``rows``, and those of ``beyond``, are written, and never asked for again."""
        self.checkpoint.rows, self.checkpoint.beyond = rows, beyond
        self.checkpoint.counts = counts
        self._save()

    def close(self, *, complete: bool) -> None:
        """Let go of the files. The checkpoint of a complete run goes; another stays as last saved, and
        what was written since is cut off when the run is gone on with."""
        if complete and self._path is not None:
            self._save()
            checkpoint_path(self._path).unlink(missing_ok=True)
        self._file.flush()
        for file in (self._file if self._path is not None else None, self._rejects):
            if file is not None:
                file.close()

    def _save(self) -> None:
        self._saved_at = time.monotonic()
        files = [file for file in (self._file, self._rejects) if file is not None]
        for file in files:
            file.flush()
        if self._path is None:
            return
        for file in files:
            os.fsync(file.fileno())
        self.checkpoint.bytes, self.checkpoint.reject_bytes = self._bytes, self._reject_bytes
        path = checkpoint_path(self._path)
        new = path.with_name(path.name + ".new")
        with new.open("w", encoding="utf-8") as saved:
            json.dump(asdict(self.checkpoint), saved)
            saved.flush()
            os.fsync(saved.fileno())
        new.replace(path)


def checkpoint_path(output: Path) -> Path:
    return output.with_name(output.name + SUFFIX)


def new_checkpoint(output: Path | None, terms: dict[str, Any]) -> Checkpoint:
    """Raises ``ConfigError`` when the output is of a run that can be gone on with: that work is not thrown
    away by a forgotten option."""
    if output is not None and checkpoint_path(output).exists():
        raise ConfigError(
            f"{output} is of a run that was not finished; go on with it with --resume, or delete "
            f"{checkpoint_path(output)} to start anew"
        )
    return Checkpoint(terms=terms)


def read_checkpoint(output: Path, terms: dict[str, Any]) -> Checkpoint:
    """Raises ``ConfigError`` when there is none, it cannot be read, or it is of a run on other ``terms``."""
    path = checkpoint_path(output)
    try:
        found = Checkpoint(**json.loads(path.read_text("utf-8")))
    except FileNotFoundError:
        state = "the run was complete" if output.exists() else "there is no such output"
        raise ConfigError(f"{path} is not there: {state}; leave --resume out to start one") from None
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}); delete it to start anew") from None
    changed = [name for name in terms if found.terms.get(name) != terms[name]]
    if changed:
        told = "; ".join(f"{name}: then {found.terms.get(name)!r}, now {terms[name]!r}" for name in changed)
        raise ConfigError(
            f"--resume needs the options of the run it goes on with; {told}; delete {path} to start anew"
        )
    if not output.exists() or output.stat().st_size < found.bytes:
        raise ConfigError(f"{output} has lost what its checkpoint counts; delete {path} to start anew")
    return found


def _cut(path: Path, size: int) -> IO[bytes]:
    """``path`` opened to append behind its first ``size`` bytes."""
    file = path.open("ab")
    file.truncate(size)
    file.seek(0, os.SEEK_END)
    return file


def _line(record: dict[str, Any]) -> bytes:
    """A kept column may hold what a text may not: a lone surrogate is written as JSON's escape of it."""
    text = json.dumps(record, ensure_ascii=False, separators=(", ", ": "), default=_plain)
    return text.encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: Any) -> str:
    """What a Parquet column may hold beside JSON's own: times, decimals, bytes."""
    return str(value.isoformat()) if hasattr(value, "isoformat") else str(value)
