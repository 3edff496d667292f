"""Posts alerts, in a thread of its own: a receiver that is slow or away holds up nothing."""

from __future__ import annotations

import json
import logging
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, Full, Queue
from typing import Any, Literal
from urllib.parse import urlsplit

from moodq_config.errors import ConfigError

log = logging.getLogger(__name__)

Outcome = Literal["sent", "failed", "dropped"]

#: Events that wait at most; further ones are dropped.
MAX_WAITING = 100
#: Seconds the receiver may take.
TIMEOUT_S = 5.0
#: Seconds before each further try.
PAUSES_S = (0.5, 2.0, 8.0)


class Webhook:
    """``counted`` is told the outcome of each event, from the thread. Raises ``ConfigError`` for a URL that
    is none of HTTP. Only the host is ever logged: a webhook's path is often its password."""

    def __init__(self, url: str, counted: Callable[[Outcome], None]) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError("--webhook is no URL of http or https")
        self._url, self._host = url, parts.hostname
        self._counted = counted
        self._waiting: Queue[dict[str, Any] | None] = Queue(MAX_WAITING)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def post(self, event: dict[str, Any]) -> None:
        """Soon; returns at once."""
        try:
            self._waiting.put_nowait(event)
        except Full:
            log.warning("webhook at %s: too many events wait; one is dropped", self._host)
            self._counted("dropped")

    def close(self, timeout_s: float) -> None:
        """Post what waits, each once, for ``timeout_s`` at most."""
        self._closing.set()
        with suppress(Full):  # the thread looks at ``_closing`` too
            self._waiting.put_nowait(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            try:
                event = self._waiting.get(timeout=1.0)
            except Empty:
                if self._closing.is_set():
                    return
                continue
            if event is None:
                return
            self._counted("sent" if self._posted(event) else "failed")

    def _posted(self, event: dict[str, Any]) -> bool:
        request = urllib.request.Request(  # noqa: S310 - the scheme was checked
            self._url,
            json.dumps(event, ensure_ascii=False).encode(),
            {"Content-Type": "application/json", "User-Agent": "moodq"},
            method="POST",
        )
        for pause_s in (*PAUSES_S, None):
            try:
                with urllib.request.urlopen(request, timeout=TIMEOUT_S):  # noqa: S310 - as above
                    return True
            except (OSError, ValueError) as error:  # URLError, HTTPError and time-outs are OSErrors
                log.warning("webhook at %s: %s", self._host, type(error).__name__)
            if pause_s is None or self._closing.wait(pause_s):
                return False
        return False
