"""The tasks as their file says now: read again when it was saved, and kept when what was saved is broken.

Producers look when an item does not fit what they know; a worker's ``task_watch`` looks all the time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

from moodq_config.tasks import TaskSet, load_tasks

#: A file's identity, size and time of change: another file under its name, as editors put there, is a change.
Stamp = tuple[int, int, int]


class TaskFile:
    """The shipped tasks and, over them, those of ``path``. ``tasks`` are in force. Any thread.

    Raises ``ConfigError`` when there is nothing to begin with: a file that is broken from the start.
    """

    def __init__(self, path: Path | None, check: Callable[[TaskSet], None] | None = None) -> None:
        self.path = path
        self._check = check
        self._lock = threading.Lock()
        self._read = self.stamp()
        self.tasks = load_tasks(path, check)

    def stamp(self) -> Stamp | None:
        """What the file looks like from outside; None while it is not there."""
        if self.path is None:
            return None
        try:
            found = os.stat(self.path)
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    @property
    def changed(self) -> bool:
        """Whether the file is not as it was when it was last read."""
        return self.path is not None and self.stamp() != self._read

    def refresh(self) -> bool:
        """Read the file if it has changed; True when other tasks are in force now. Raises ``ConfigError``,
        once for each broken content; the tasks from before stay in force."""
        with self._lock:
            if not self.changed:
                return False
            self._read = self.stamp()  # before reading: what is saved meanwhile is another change
            found = load_tasks(self.path, self._check)
            if found == self.tasks:
                return False
            self.tasks = found
            return True
