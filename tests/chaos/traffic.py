"""What producers send meanwhile, and the ledger: what was accepted, what came of it, and when."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from moodq_config.contracts import Result
from moodq_config.errors import MoodqError, Unavailable
from moodq_config.names import result_key
from moodq_config.settings import Settings, load_settings
from moodq_producer import Client
from moodq_producer.connection import close, connect

LOOK_EVERY_S = 0.1
CHUNK = 20
#: Seconds a producer goes on trying to get one job in.
GIVE_UP_S = 120.0


@dataclass
class Tally:
    """Of one scenario. ``rewritten``: results that a server lost with what it had not yet written, and that
    were made again, the same but for times and names. ``delay_s``: the longest from acceptance to result."""

    items: int = 0
    done: int = 0
    failed: int = 0
    lost: int = 0
    wrong: int = 0
    executed_again: int = 0
    resubmitted: int = 0
    rewritten: int = 0
    delay_s: float = 0.0
    seconds: float = 0.0
    harm: str = ""
    faults: list[str] = field(default_factory=list)

    def after(self, harm: str) -> Tally:
        """The same, said of other ``harm``."""
        self.harm = harm
        return self


@dataclass
class _Item:
    id: str
    text: str
    expected: str
    accepted_at: float = 0.0
    seen_at: float = 0.0
    body: bytes = b""


class Traffic:
    """``items`` texts within about ``seconds``: most in jobs of 20 on ``bulk``, the others alone, some with a
    reply, each waited for. One in 50 makes the model give NaN and must fail with ``engine_failed``.

    ``forgetful``: the server may lose what it acknowledged, so what has no result after some quiet seconds
    is sent again under the same ids, and a result may be made again. ``watch``: where to look for results.
    """

    def __init__(
        self,
        name: str,
        url: str,
        items: int,
        seconds: float,
        *,
        forgetful: bool = False,
        pass_s: float = 0.0,
        watch: str | None = None,
    ) -> None:
        # What the engine fails on is not retried; deaths are another matter, and the workers count them.
        self._settings: Settings = load_settings(redis_url=url, max_attempts=1)
        self._watched = load_settings(redis_url=watch or url)
        self._forgetful = forgetful
        self._rewritten = 0
        self._seconds = seconds
        slow = f" [[sleep {pass_s:g}]]" if pass_s else ""
        self._items = [_item(f"c-{name}-{number}", number, slow) for number in range(items)]
        alone = max(1, items // 5)
        self._alone = [[item] for item in self._items[:alone]]
        rest = self._items[alone:]
        self._chunks = [rest[start : start + CHUNK] for start in range(0, len(rest), CHUNK)]
        self._by_id = {item.id: item for item in self._items}
        self._stop = threading.Event()
        self.resubmitted = 0
        self.faults: list[str] = []
        self._threads = [
            threading.Thread(target=self._send, args=(units,), daemon=True)
            for units in (self._alone, self._chunks)
        ]
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> Traffic:
        self._began = time.monotonic()
        for thread in (*self._threads, self._watcher):
            thread.start()
        return self

    @property
    def ended(self) -> int:
        return sum(1 for item in self._items if item.body)

    def finish(self, timeout_s: float, quiet_s: float) -> Tally:
        """Wait until every item has its result, at most ``timeout_s`` after the last was accepted."""
        for thread in self._threads:
            thread.join(self._seconds + GIVE_UP_S)
        deadline = time.monotonic() + timeout_s
        seen, quiet_since = self.ended, time.monotonic()
        while self.ended < len(self._items) and time.monotonic() < deadline:
            time.sleep(LOOK_EVERY_S)
            if self.ended > seen:
                seen, quiet_since = self.ended, time.monotonic()
            elif self._forgetful and time.monotonic() - quiet_since > quiet_s:
                self._send_again()
                quiet_since = time.monotonic()
        self._stop.set()
        self._watcher.join()
        return self._tally()

    def _send_again(self) -> None:
        with Client(self._settings) as client:
            for unit in (*self._alone, *self._chunks):
                missing = sum(1 for item in unit if not item.body)
                if missing:
                    self.resubmitted += missing
                    self._submit(client, unit)

    def _send(self, units: list[list[_Item]]) -> None:
        pause_s = self._seconds / max(1, len(units))
        client = self._client()
        for number, unit in enumerate(units):
            due = self._began + number * pause_s
            time.sleep(max(0.0, due - time.monotonic()))
            give_up = time.monotonic() + GIVE_UP_S
            while True:
                try:
                    self._submit(client, unit)
                    break
                except Unavailable as error:
                    if time.monotonic() > give_up:
                        self.faults.append(f"never accepted: {unit[0].id} ({error.code})")
                        break
                    time.sleep(0.2)
        client.close()

    def _client(self) -> Client:
        while True:
            try:
                return Client(self._settings)
            except MoodqError:
                time.sleep(0.2)

    def _submit(self, client: Client, unit: list[_Item]) -> None:
        if len(unit) == 1:
            tasks = ["sentiment", "reply"] if int(unit[0].id.rpartition("-")[2]) % 5 == 0 else ["sentiment"]
            client.submit(unit[0].text, tasks, id=unit[0].id, on_full="wait", full_timeout=GIVE_UP_S)
        else:
            sources = [{"id": item.id, "text": item.text} for item in unit]
            list(client.submit_many(sources, chunk=len(unit), on_full="wait", full_timeout=GIVE_UP_S))
        now = time.monotonic()
        for item in unit:
            item.accepted_at = item.accepted_at or now

    def _watch(self) -> None:
        """Look for results, and whether any changes once it was there."""
        connection: Any = None
        for turn in itertools.count():
            if self._stop.wait(LOOK_EVERY_S):
                break
            try:
                connection = connection or connect(self._watched)
                asked = [item for item in self._items if not item.body or turn % 20 == 0]
                for item, body in zip(asked, self._get(connection, asked), strict=True):
                    self._note(item, body)
            except (RedisError, Unavailable, OSError):
                continue
        if connection is not None:
            for item, body in zip(self._items, self._get(connection, self._items), strict=True):
                self._note(item, body)
            close(connection)

    def _get(self, connection: Any, items: list[_Item]) -> list[bytes | None]:
        return list(connection.mget([result_key(item.id) for item in items])) if items else []

    def _note(self, item: _Item, body: bytes | None) -> None:
        if body is None:
            return
        if not item.body:
            item.body, item.seen_at = body, time.monotonic()
        elif item.body != body:
            if self._forgetful and _meaning(body) == _meaning(item.body):
                self._rewritten += 1
            else:
                self.faults.append(f"{item.id}: its result changed")
            item.body = body

    def _tally(self) -> Tally:
        tally = Tally(items=len(self._items), resubmitted=self.resubmitted, faults=self.faults)
        tally.rewritten = self._rewritten
        for item in self._items:
            if not item.accepted_at:
                tally.items -= 1
                continue
            if not item.body:
                tally.lost += 1
                tally.faults.append(f"{item.id}: no result")
                continue
            tally.delay_s = max(tally.delay_s, item.seen_at - item.accepted_at)
            outcome = _outcome(item)
            tally.done += outcome in ("positive", "negative")
            tally.failed += outcome not in ("positive", "negative")
            if outcome != item.expected:
                tally.faults.append(f"{item.id}: {outcome} instead of {item.expected}")
        tally.wrong = len({fault for fault in tally.faults if " no result" not in fault})
        tally.seconds = time.monotonic() - self._began
        return tally


def executed_again(log: Path) -> int:
    """How many items the engine labelled more than once, in all workers together. What it fails on is:
    a batch that fails is run again in halves."""
    return sum(1 for count in Counter(log.read_text().split()).values() if count > 1)


def _item(id: str, number: int, slow: str) -> _Item:
    expected = ("negative", "positive")[number % 2] if number % 50 != 49 else "engine_failed"
    return _Item(id, text_of(id) + slow, expected)


def text_of(id: str) -> str:
    """What the text of an id says; the engine that makes no mistakes goes by its words."""
    number = int(id.rpartition("-")[2])
    return f"{id} [[nan]]" if number % 50 == 49 else f"{id} was {('bad', '很好')[number % 2]}"


def _meaning(body: bytes) -> object:
    result = Result.model_validate_json(body)
    return result.status, result.results, result.error


def _outcome(item: _Item) -> str:
    result = Result.model_validate_json(item.body)
    if result.id != item.id:
        return f"the result of {result.id}"
    if result.error is not None:
        return result.error.code
    return str(getattr(result.results.get("sentiment"), "label", "no label"))
