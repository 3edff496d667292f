"""A ``logging.Handler`` that has log records tagged in the background and never makes the program wait.

    import logging
    from moodq_producer.logging import MoodqHandler, to_jsonl

    logging.getLogger().addHandler(MoodqHandler(on_result=to_jsonl("tagged.jsonl")))

A record is formatted, put into a bounded queue of this process, and forgotten; ``background`` sends what is
there in chunks to the queue ``bulk``. Where there is no room records are dropped, and counted.
"""

from __future__ import annotations

import copy
import json
import logging
import os
import weakref
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from moodq_config.answers import ChosenLabel, LabelScores, Score
from moodq_config.contracts import Result
from moodq_config.names import BULK
from moodq_config.settings import Settings
from moodq_producer.background import Background, Counts, Handed, Plan, in_background
from moodq_producer.jobs import settings_from

__all__ = ["Counts", "MoodqHandler", "OnResult", "to_jsonl", "to_logger"]

#: Gets a copy of the record, its text as ``message`` and without arguments and traceback, and the result.
OnResult = Callable[[logging.LogRecord, Result], None]

_alive: weakref.WeakSet[MoodqHandler] = weakref.WeakSet()


class MoodqHandler(logging.Handler):
    """Tags records by ``tasks`` on ``queue``.

    ``on_result`` is called in a thread of the handler, with one record at a time; without it results are left
    in Redis, where ``metadata`` names logger and level. ``capacity`` records may wait to be sent, and as many
    for their results. ``close``, which ``logging`` calls at the end of the program, takes ``close_timeout_s``
    seconds at most. What moodq's own threads log is not tagged. A process that is forked has an empty queue
    and threads of its own; what its parent had taken, its parent sends.

    Raises ``ConfigError`` and ``BadInput`` for settings, a queue or tasks that cannot be; a Redis that is
    away is waited for.
    """

    def __init__(
        self,
        settings: Settings | str | None = None,
        tasks: Sequence[str] | str = ("log_severity",),
        *,
        on_result: OnResult | None = None,
        queue: str = BULK,
        lang: str | None = None,
        level: int | str = logging.NOTSET,
        capacity: int = 10_000,
        chunk: int = 100,
        linger_s: float = 0.2,
        result_timeout_s: float = 60.0,
        close_timeout_s: float = 5.0,
    ) -> None:
        super().__init__(level)
        self._settings = settings_from(settings)
        names = (tasks,) if isinstance(tasks, str) else tuple(tasks)
        self._plan = Plan(names, queue, lang, capacity, chunk, linger_s, result_timeout_s)
        self._on_result = on_result
        self._close_timeout_s = close_timeout_s
        self._closed = False
        self._background: Background | None = self._new_background()
        _watch_forks()
        _alive.add(self)

    @property
    def counts(self) -> Counts:
        """What has become of the records so far."""
        return self._background.counts if self._background else Counts()

    def handle(self, record: logging.LogRecord) -> bool | logging.LogRecord:  # type: ignore[override]
        """As any handler, but takes no lock for what is not tagged anyway: ``close`` may hold it."""
        if self._closed or in_background():
            return False
        return super().handle(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Hand the record over; never raises, never waits."""
        try:
            text = self.format(record)[: self._settings.max_text_chars]
            about = None
            if self._on_result is not None:
                about = copy.copy(record)  # as others may still format it, and a traceback holds its frames
                about.msg = about.message = text
                about.args = about.exc_info = about.exc_text = None
            if self._background is None:
                self._background = self._new_background()
            self._background.put(Handed(text, about, {"logger": record.name, "level": record.levelname}))
        except Exception:  # noqa: BLE001 - as every handler: a program must not fail by its logs
            self.handleError(record)

    def close(self) -> None:
        """Send what was taken and await its results, ``close_timeout_s`` seconds at most."""
        if not self._closed:
            self._closed = True
            if self._background is not None:
                self._background.close(self._close_timeout_s)
        super().close()

    def _new_background(self) -> Background:
        return Background(self._settings, self._plan, self._on_result)

    def _after_fork(self) -> None:
        """What is there belongs to the parent: its threads, its connections, the texts they hold."""
        self._background = None


def to_logger(logger: logging.Logger, level: int = logging.INFO) -> OnResult:
    """An ``on_result`` that logs each answer, as ``log_severity=error 0.93: the text``; the result is the log
    record's ``moodq``. Handlers of this module pass these over."""

    def tell(record: logging.LogRecord, result: Result) -> None:
        if result.error is not None:
            said = result.error.code
        else:
            said = ", ".join(f"{task}={_short(answer)}" for task, answer in result.results.items())
        logger.log(level, "%s: %s", said, record.getMessage(), extra={"moodq": result})

    return tell


def to_jsonl(path: str | Path) -> OnResult:
    """An ``on_result`` that appends a line of JSON per record to a file, which is opened for each, so that it
    may be rotated: ``created`` (unix seconds), ``logger``, ``level``, ``text``, and ``results``, or ``error``
    with its code."""

    def write(record: logging.LogRecord, result: Result) -> None:
        told = result.model_dump(mode="json", include={"results", "error"}, exclude_none=True)
        line = {
            "created": record.created,
            "logger": record.name,
            "level": record.levelname,
            "text": record.getMessage(),
            **({"error": told["error"]} if result.error is not None else {"results": told["results"]}),
        }
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    return write


def _short(answer: object) -> str:
    match answer:
        case LabelScores():
            return f"{answer.label} {answer.probability:.2f}"
        case ChosenLabel():
            return answer.label
        case Score():
            return f"{answer.score:.2f}"
    return str(answer)


@cache
def _watch_forks() -> None:
    """Threads do not survive a fork; the copies of the parent's handlers begin anew in the child."""
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_after_fork)


def _after_fork() -> None:
    for handler in list(_alive):
        handler._after_fork()
