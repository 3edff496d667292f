"""After a stop or a kill: which files the places of a checkpoint are in now.

A file that was rotated meanwhile is looked for in its folder, by its inode and its first bytes; what was
rotated after it is read as well, before the file that has the name today.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from moodq_config.printable import printable
from moodq_producer.stream.checkpoint import Place
from moodq_producer.stream.tail import Head, Tail

log = logging.getLogger(__name__)

#: What rotation adds to a name: a number or a date.
_ROTATED = re.compile(r"[.-]\d[\d.T:_-]*")


def restored(places: Sequence[Place], names: Sequence[str]) -> Iterator[tuple[Tail, bool]]:
    """The files to go on with, older ones of a name first, and whether each has lost its name. ``names`` are
    the paths followed today."""
    newest = {place.path: place for place in places}
    known = {place.inode for place in places} | {inode for name in names if (inode := _inode(name))}
    for place in places:
        if (tail := _opened(place.path, place)) is not None:
            yield tail, False
            continue
        if _inode(place.path) == place.inode:
            log.warning("%s was truncated or replaced; reading it from its beginning", printable(place.path))
            continue
        moved = next((path for path in _siblings(place.path) if _inode(path) == place.inode), None)
        tail = _opened(moved, place) if moved is not None else None
        if tail is None:
            log.warning(
                "%s: the file that was read up to byte %d is gone or compressed; what was added to it since "
                "is not read", printable(place.path), place.offset,
            )  # fmt: skip
            continue
        changed_at = tail.changed_at
        yield tail, True
        if newest[place.path] is place:
            yield from ((between, True) for between in rotated_since(place.path, changed_at, known))


def _opened(path: str, place: Place) -> Tail | None:
    """The file at ``path`` if it is the one of ``place``, and all that was read is still in it."""
    if _inode(path) != place.inode:
        return None
    try:
        tail = Tail(path, name=place.path, offset=place.offset, generation=place.generation)
    except OSError:
        return None
    if tail.size >= place.offset and tail.begins_with(Head(place.head_bytes, place.head_digest)):
        return tail
    tail.close()
    return None


def rotated_since(path: str, changed_at: int, known: set[int]) -> list[Tail]:
    """Files that had the name of ``path`` for a while when nobody looked, the oldest first: changed after
    ``changed_at``, of other inodes than ``known``."""
    found = []
    for sibling in _siblings(path):
        added = Path(sibling).name.removeprefix(Path(path).name)
        if added == Path(sibling).name or not _ROTATED.fullmatch(added) or _inode(sibling) in known:
            continue
        try:
            tail = Tail(sibling, name=path)
        except OSError:
            continue
        if tail.changed_at > changed_at:
            found.append(tail)
        else:
            tail.close()
    return sorted(found, key=lambda tail: tail.changed_at)


def _siblings(path: str) -> list[str]:
    folder = os.path.dirname(path)
    try:
        with os.scandir(folder or ".") as entries:
            return sorted(os.path.join(folder, entry.name) for entry in entries if entry.is_file())
    except OSError:
        return []


def _inode(path: str) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None
