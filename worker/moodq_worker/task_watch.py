"""Edited tasks, in a running worker: notice a saved change, check it, put it in force; refuse what is broken.

Runs in its own thread, off the engine's. Items already read are finished by the definitions they were read
by (``Item.tasks``); those read from then on go by the new ones. So nothing waits, and every result is of one
revision.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from moodq_config.errors import ConfigError
from moodq_config.task_file import TaskFile
from moodq_config.tasks import TaskSet
from moodq_worker.metrics import Metrics

log = logging.getLogger(__name__)

#: Seconds between two looks. A change is read when it has stood still from one to the next, so that what an
#: editor has half written is not; two of them stay well below the second that is promised.
LOOK_EVERY_S = 0.2


class TaskWatch:
    """``use`` hears of the tasks that are in force from then on."""

    def __init__(self, file: TaskFile, metrics: Metrics, use: Callable[[TaskSet], None]) -> None:
        self._file = file
        self._metrics = metrics
        self._use = use
        self._lock = threading.Lock()
        self._refused = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="task-watch", daemon=True)

    def start(self) -> None:
        if self._file.path is not None:
            self._thread.start()

    def stop(self) -> None:
        self._stop.set()

    def look(self) -> None:
        """Put in force what has been saved since the last look. Any thread."""
        with self._lock:
            if not self._file.changed:
                return
            try:
                changed = self._file.refresh()
            except ConfigError as error:
                self._refuse(error.message)
                return
            except Exception as error:  # noqa: BLE001 - nothing that is saved may end a running worker
                self._refuse(f"{self._file.path}: {type(error).__name__}: {error}")
                return
            tasks = self._file.tasks
            if changed:
                self._use(tasks)
                self._metrics.tasks_reloads.labels("changed").inc()
                self._metrics.describe_tasks(tasks)
                log.info("tasks changed: revision %s, %d tasks", tasks.revision, len(tasks))
            elif self._refused:
                log.info("the tasks file is in order again, unchanged: revision %s", tasks.revision)
            self._refused = False

    def _refuse(self, message: str) -> None:
        self._refused = True
        self._metrics.tasks_reloads.labels("refused").inc()
        log.error("tasks not changed, revision %s stays: %s", self._file.tasks.revision, message)

    def _run(self) -> None:
        before = self._file.stamp()
        while not self._stop.wait(LOOK_EVERY_S):
            now = self._file.stamp()
            if now == before and self._file.changed:
                self.look()
            before = now
