"""The log of a process: one record is one line, and neither secrets nor texts are in it unless asked for.

Whatever reaches a log may have come from Redis or from a peer's HTTP request; the formatter makes it
harmless, so that no caller has to think of it.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterable
from typing import TextIO

from moodq_config.errors import MoodqError
from moodq_config.printable import escaped
from moodq_config.redis_url import mask_urls, secrets_in
from moodq_config.settings import Settings

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
#: Before each line of a traceback: it cannot be taken for a record.
CONTINUED = "    | "
#: A password shorter than this is not looked for: it would be found in innocent words.
SHORTEST_SECRET = 4
#: Errors of one traceback that are told.
MOST_CAUSES = 5

#: Redis quotes a command it does not know, with what came with it.
_QUOTED_BY_REDIS = re.compile(r"(?is)(, with args beginning with:).*")
#: Where exceptions come from whose words are about machines, not about texts.
_TELLING = (MoodqError, OSError, MemoryError)
_TELLING_MODULES = ("redis", "torch")


class SafeFormatter(logging.Formatter):
    """Escapes control characters, masks ``secrets`` and passwords in URLs. Without ``texts`` an exception's
    own words are left out, unless it is one of Redis, torch, the system or moodq: others may quote a text."""

    def __init__(self, secrets: Iterable[str] = (), *, texts: bool = False) -> None:
        super().__init__(FORMAT)
        self._secrets = [one for one in secrets if len(one) >= SHORTEST_SECRET]
        self._texts = texts

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.asctime = self.formatTime(record)
        lines = [self._harmless(self.formatMessage(record))]
        if record.exc_info and record.exc_info[1] is not None:
            lines += [CONTINUED + self._harmless(line) for line in self._told(record.exc_info[1])]
        return "\n".join(lines)

    def _harmless(self, line: str) -> str:
        line = _QUOTED_BY_REDIS.sub(r"\1 …", mask_urls(line))
        for secret in self._secrets:
            line = line.replace(secret, "***")
        return escaped(line)

    def _told(self, error: BaseException) -> list[str]:
        """The traceback, the causes first, as lines."""
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
            words = one if self._may_tell(one) else "(MOODQ_LOG_TEXTS=true shows its words)"
            lines.append(f"{type(one).__name__}: {words}")
        return lines

    def _may_tell(self, error: BaseException) -> bool:
        module = type(error).__module__.partition(".")[0]
        return self._texts or isinstance(error, _TELLING) or module in _TELLING_MODULES


def configure_logs(settings: Settings, stream: TextIO | None = None) -> None:
    """Let the whole process log to ``stream`` (standard error) through ``SafeFormatter``."""
    handler = logging.StreamHandler(stream or sys.stderr)
    url = settings.redis_url or ""
    handler.setFormatter(SafeFormatter(secrets_in(url), texts=settings.log_texts))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.captureWarnings(capture=True)
