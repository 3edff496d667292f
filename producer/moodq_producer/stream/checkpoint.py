"""How far each followed file has been read and its results written: a small file, replaced as a whole."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from pydantic import BaseModel, ConfigDict, ValidationError

from moodq_config.errors import ConfigError


class Place(BaseModel):
    """The records of this file that end before ``offset`` are written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    device: int
    inode: int
    generation: str
    offset: int
    head_bytes: int
    head_digest: str


class _Saved(BaseModel):
    v: int
    patterns: list[str]
    places: list[Place]


@dataclass(slots=True)
class Checkpoint:
    """``patterns`` were followed: a file that matches one of them and has no place is new.
    ``saved_at``: nanoseconds, by the file's time of change."""

    saved_at: int
    patterns: list[str] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)


class CheckpointFile:
    """Held by one process at a time. Raises ``ConfigError`` when another one has it, or it cannot be read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._lock: IO[bytes] = path.with_name(path.name + ".lock").open("ab")
        except OSError as error:
            raise ConfigError(f"{path}: no checkpoint can be kept there: {error.strerror}") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._lock.close()
            raise ConfigError(
                f"{path} is in use by another `moodq follow`; stop it, or name another with --checkpoint"
            ) from None
        try:
            self.found = self._read()
        except ConfigError:
            self._lock.close()
            raise

    def _read(self) -> Checkpoint | None:
        try:
            saved = _Saved.model_validate_json(self._path.read_bytes())
            saved_at = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise ConfigError(
                f"{self._path} is no checkpoint that can be read ({type(error).__name__}); delete it to "
                "start anew"
            ) from None
        return Checkpoint(saved_at, saved.patterns, saved.places)

    def save(self, patterns: Sequence[str], places: Sequence[Place]) -> None:
        """On the disk when it returns. Raises ``OSError``."""
        new = self._path.with_name(self._path.name + ".new")
        body = {"v": 1, "patterns": list(patterns), "places": [place.model_dump() for place in places]}
        with new.open("w", encoding="utf-8") as file:
            json.dump(body, file)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self._path)

    def close(self) -> None:
        self._lock.close()
