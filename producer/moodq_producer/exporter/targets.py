"""Where Prometheus finds the workers: their own words from Redis, in the form of its service discovery.

The same list for ``http_sd_configs`` and, as a file, for ``file_sd_configs``.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moodq_config.errors import Unavailable
from moodq_config.worker_info import WorkerInfo
from moodq_producer.exporter.reading import Reader

log = logging.getLogger(__name__)

#: Seconds between two writings of the file.
WRITE_EVERY_S = 5.0


def target_groups(workers: Mapping[str, WorkerInfo]) -> list[dict[str, Any]]:
    """One group a worker. Its name is a ``__meta_`` label, which Prometheus drops unless a rule keeps it: a
    series for every worker that ever was would fill its disk."""
    return [
        {
            "targets": [info.metrics],
            "labels": {"__meta_moodq_worker": name, "__meta_moodq_queues": ",".join(info.queues)},
        }
        for name, info in sorted(workers.items())
        if info.metrics
    ]


def targets_json(reader: Reader) -> bytes:
    """Raises ``Unavailable``; an empty list would make Prometheus forget everybody."""
    return json.dumps(target_groups(reader.read_workers())).encode()


class TargetsFile:
    """Keeps a file up to date by a thread. While Redis is away it stays as it is."""

    def __init__(self, reader: Reader, path: Path) -> None:
        self._reader = reader
        self._path = path
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="targets", daemon=True)

    def start(self) -> None:
        """Raises ``OSError`` if the file cannot be written."""
        self._write()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=WRITE_EVERY_S)

    def _run(self) -> None:
        while not self._stop.wait(WRITE_EVERY_S):
            try:
                self._write()
            except OSError as error:
                log.error("%s is not written: %s", self._path, error)

    def _write(self) -> None:
        try:
            content = targets_json(self._reader)
        except Unavailable as error:
            log.warning("%s stays as it is: %s", self._path, error.message)
            return
        fresh = self._path.with_name(f".{self._path.name}.new")
        fresh.write_bytes(content)
        os.replace(fresh, self._path)  # Prometheus never sees half of it
