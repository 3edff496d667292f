"""The log of a process: one record is one line, and neither secrets nor texts are in it unless asked for.

Whatever reaches a log may have come from Redis or from a peer's HTTP request; the formatter makes it
harmless, so that no caller has to think of it. It writes for people, or JSON for programs that collect logs:
its field names are those of the Elastic Common Schema, and ``moodq.…`` for what is ours alone;
``docs/observability.md`` lists them.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

from moodq_config.errors import MoodqError
from moodq_config.printable import escaped, printable_json
from moodq_config.redis_url import mask_urls, secrets_in
from moodq_config.settings import Settings

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: Before each line of a traceback: it cannot be taken for a record.
CONTINUED = "    | "
#: A password shorter than this is not looked for: it would be found in innocent words.
SHORTEST_SECRET = 4
#: Errors of one traceback that are told.
MOST_CAUSES = 5
ECS_VERSION = "8.11.0"
_to_json = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
JobsLogged = Literal["all", "failed", "none"]
#: Attribute of a record with fields of its own for the JSON: ``log.info("…", extra={EXTRA: {…}})``.
EXTRA = "moodq_fields"

#: Redis quotes a command it does not know, with what came with it.
_QUOTED_BY_REDIS = re.compile(r"(?is)(, with args beginning with:).*")
#: Where exceptions come from whose words are about machines, not about texts.
_TELLING = (MoodqError, OSError, MemoryError)
_TELLING_MODULES = ("redis", "torch")


class SafeFormatter(logging.Formatter):
    """Escapes control characters, masks ``secrets`` and passwords in URLs. Without ``texts`` an exception's
    own words are left out, unless it is one of Redis, torch, the system or moodq: others may quote a text.
    """

    def __init__(self, secrets: Iterable[str] = (), *, texts: bool = False) -> None:
        super().__init__(FORMAT)
        self._secrets = [one for one in secrets if len(one) >= SHORTEST_SECRET]
        self._texts = texts

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        lines = [escaped(self.masked(self.formatMessage(record)))]
        if record.exc_info and record.exc_info[1] is not None:
            found = told(record.exc_info[1], self.words_of)
            lines += [CONTINUED + escaped(self.masked(line)) for line in found]
        return "\n".join(lines)

    def masked(self, text: str) -> str:
        """``text`` without secrets, and without what Redis quotes of a command."""
        if "=" in text or "://" in text:
            text = mask_urls(text)
        if "args" in text.lower():
            text = _QUOTED_BY_REDIS.sub(r"\1 …", text)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text

    def words_of(self, error: BaseException) -> str:
        """What ``error`` says, if that may be told."""
        module = type(error).__module__.partition(".")[0]
        if self._texts or isinstance(error, _TELLING) or module in _TELLING_MODULES:
            return str(error)
        return "(MOODQ_LOG_TEXTS=true shows its words)"


class JsonFormatter(SafeFormatter):
    """The same as one JSON object a line. ``always`` are fields of every line."""

    def __init__(
        self, secrets: Iterable[str] = (), *, texts: bool = False, always: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(secrets, texts=texts)
        self._always = dict(always or {})

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "@timestamp": moment,
            "log.level": record.levelname.lower(),
            "message": self.masked(record.getMessage()),
            "ecs.version": ECS_VERSION,
            "log.logger": record.name,
            **self._always,
        }
        for name, value in getattr(record, EXTRA, {}).items():
            fields[name] = self.masked(value) if isinstance(value, str) else value
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            fields["error.type"] = type(error).__name__
            fields["error.message"] = self.masked(self.words_of(error))
            fields["error.stack_trace"] = self.masked("\n".join(told(error, self.words_of)))
        return printable_json(_to_json(fields))


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes each record at once, or those of a thread ``together``: a write hands the interpreter to another
    thread, and to get it back costs more than the line."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._thread: int | None = None
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread != self._thread or self._thread is None:
            super().emit(record)
            return
        try:
            self._lines.append(self.format(record) + self.terminator)
        except Exception:  # noqa: BLE001 - as every handler of the standard library
            self.handleError(record)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write what this thread logs meanwhile in one go, at the end. For one thread of a process."""
        self._thread = threading.get_ident()
        try:
            yield
        finally:
            self._thread = None
            if self._lines:
                lines, self._lines = self._lines, []
                with self.lock or nullcontext():
                    self.stream.write("".join(lines))
                    self.flush()


def told(error: BaseException, words_of: Callable[[BaseException], str]) -> list[str]:
    """The traceback of ``error``, its causes first, as lines; ``words_of`` says what each says."""
    chain = [error]
    while len(chain) < MOST_CAUSES:
        last = chain[-1]
        cause = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if cause is None:
            break
        chain.append(cause)
    lines = []
    for one in reversed(chain):
        for frame in traceback.format_tb(one.__traceback__):
            lines += frame.rstrip("\n").split("\n")
        lines.append(f"{type(one).__name__}: {words_of(one)}")
    return lines


def as_json(settings: Settings, stream: TextIO) -> bool:
    """Whether what is logged to ``stream`` is for programs."""
    return settings.log_format == "json" or (settings.log_format == "auto" and not stream.isatty())


def jobs_logged(settings: Settings, stream: TextIO | None = None) -> JobsLogged:
    """Of which jobs a line is logged: on a terminal a stream of them would hide the rest."""
    if settings.log_jobs != "auto":
        return settings.log_jobs
    return "all" if as_json(settings, stream or sys.stderr) else "none"


def written_together() -> AbstractContextManager[None]:
    """What the calling thread logs within goes out in one write, if ``configure_logs`` set the logs up."""
    handler = next((one for one in logging.getLogger().handlers if isinstance(one, LineHandler)), None)
    return nullcontext() if handler is None else handler.together()


def configure_logs(settings: Settings, service: str, stream: TextIO | None = None) -> None:
    """Let the whole process, which is ``service``, log to ``stream`` (standard error): lines for people
    through ``SafeFormatter``, or JSON through ``JsonFormatter``."""
    stream = stream or sys.stderr
    handler = LineHandler(stream)
    secrets, texts = secrets_in(settings.redis_url or ""), settings.log_texts
    if as_json(settings, stream):
        handler.setFormatter(JsonFormatter(secrets, texts=texts, always={"service.name": service}))
    else:
        handler.setFormatter(SafeFormatter(secrets, texts=texts))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
