"""What a producer sent, and what came of it: every text one result, which never changes."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from moodq_config.names import events_key, result_key
from moodq_producer import Client

from .scaling import TASK, text

LOOK_EVERY_S = 0.05
SEND_EVERY_S = 0.1
#: Keys asked for in one command.
AT_ONCE = 1_000


@dataclass
class Account:
    """``written_twice``: texts whose stream of events has more than one end."""

    items: int = 0
    lost: int = 0
    failed: int = 0
    changed: int = 0
    written_twice: int = 0
    seconds: float = 0.0
    faults: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (self.lost or self.failed or self.changed or self.written_twice or self.faults)


class Ledger:
    """Sends ``backlog`` texts, then ``items_per_s`` until ``finish``, each a job of its own."""

    def __init__(self, client: Client, redis: Any, *, backlog: int, items_per_s: float) -> None:
        self._client = client
        self._redis = redis
        self._rate = items_per_s
        self._seen: dict[str, bytes] = {}
        self._changed: set[str] = set()
        self._sent: list[str] = []
        self._stop, self._all_sent = threading.Event(), threading.Event()
        self._faults: list[str] = []
        self._began = time.monotonic()
        self._send(backlog)
        self._threads = [
            threading.Thread(target=self._guarded, args=(work,)) for work in (self._go_on, self._watch)
        ]
        for thread in self._threads:
            thread.start()

    def wait_for(self, ids: list[str], timeout_s: float) -> float:
        """Seconds until each of ``ids`` has a result. Raises ``RuntimeError`` after ``timeout_s``."""
        began = time.monotonic()
        while missing := [id for id in ids if id not in self._seen]:
            if time.monotonic() > began + timeout_s:
                raise RuntimeError(f"{len(missing)} of {len(ids)} have no result after {timeout_s:g} s")
            time.sleep(LOOK_EVERY_S)
        return time.monotonic() - began

    def finish(self, timeout_s: float) -> Account:
        """Send no more, wait for what is missing, and look at everything once more."""
        self._all_sent.set()
        self._threads[0].join()
        deadline = time.monotonic() + timeout_s
        while len(self._seen) < len(self._sent) and time.monotonic() < deadline and not self._faults:
            time.sleep(LOOK_EVERY_S)
        self._stop.set()
        self._threads[1].join()
        self._look(self._sent)
        return Account(
            items=len(self._sent),
            lost=sum(1 for id in self._sent if id not in self._seen),
            failed=sum(1 for body in self._seen.values() if json.loads(body)["status"] != "done"),
            changed=len(self._changed),
            written_twice=sum(1 for ends in self._ends() if ends > 1),
            seconds=round(time.monotonic() - self._began, 1),
            faults=self._faults,
        )

    def _guarded(self, work: Any) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the account must tell
            self._faults.append(f"{type(error).__name__}: {error}")

    def _go_on(self) -> None:
        due = time.monotonic()
        while not self._all_sent.is_set():
            due += SEND_EVERY_S
            self._send(round(self._rate * SEND_EVERY_S))
            self._all_sent.wait(max(0.0, due - time.monotonic()))

    def _send(self, count: int) -> None:
        first = len(self._sent)
        items = [{"id": f"scale-{number}", "text": text(number)} for number in range(first, first + count)]
        self._sent += [ticket.id for ticket in self._client.submit_many(items, [TASK], queue="bulk", chunk=1)]

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            self._look([id for id in list(self._sent) if id not in self._seen])

    def _look(self, ids: list[str]) -> None:
        for start in range(0, len(ids), AT_ONCE):
            some = ids[start : start + AT_ONCE]
            for id, body in zip(some, self._redis.mget(map(result_key, some)), strict=True):
                if body is not None and self._seen.setdefault(id, body) != body:
                    self._changed.add(id)

    def _ends(self) -> list[int]:
        with self._redis.pipeline(transaction=False) as pipe:
            for id in self._sent:
                pipe.xrange(events_key(id))
            return [
                sum(1 for _, entry in entries if entry[b"event"] == b"done") for entries in pipe.execute()
            ]
