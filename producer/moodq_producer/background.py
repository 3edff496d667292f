"""Texts handed over by a program that must not wait: sent in chunks by one thread, their results taken by
another. ``logging`` is the front of it.

What is handed over is bounded, and counted when it finds no room. Redis away, a full queue, no worker: the
threads wait, the program goes on.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from moodq_config.contracts import RequestItem, Result
from moodq_config.errors import MoodqError, Unavailable, WaitTimeout
from moodq_config.settings import Settings
from moodq_producer.backoff import backoff_s
from moodq_producer.client import Client
from moodq_producer.jobs import JobMaker
from moodq_producer.waiting import Feed

log = logging.getLogger(__name__)

#: Seconds a chunk is held up by a full queue before the thread looks whether it has been told to end.
FULL_LOOK_S = 1.0
#: Seconds a read waits for results before the thread looks whether it is to end.
RESULT_LOOK_S = 2.0
#: Seconds between two looks for room among the texts whose results are waited for.
ROOM_LOOK_S = 0.05

_thread = threading.local()


def in_background() -> bool:
    """Whether this is one of the threads of this module: what it logs must not be handed over again."""
    return getattr(_thread, "is_ours", False)


@dataclass(frozen=True, slots=True)
class Handed:
    """One text; ``about`` is given back with its result."""

    text: str
    about: Any
    metadata: dict[str, Any] | None = None


@dataclass(slots=True)
class Counts:
    """Texts, each in ``taken`` or ``dropped``. ``dropped``: there was no room, or no time at the end;
    ``refused``: as text they were none of moodq's; ``unanswered``: no result came in time."""

    taken: int = 0
    dropped: int = 0
    refused: int = 0
    sent: int = 0
    answered: int = 0
    unanswered: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """``capacity`` bounds the texts that wait to be sent, and again those whose results are awaited. A chunk
    is sent when it is full or ``linger_s`` after its first text; ``result_timeout_s`` without any result
    after which those awaited are given up."""

    tasks: tuple[str, ...]
    queue: str
    lang: str | None
    capacity: int
    chunk: int
    linger_s: float
    result_timeout_s: float


class Background:
    """``put`` from any thread; ``close`` once. Its threads start with the first text.

    Raises ``ConfigError`` and ``BadInput`` for a plan that no text could be sent by.
    """

    def __init__(
        self, settings: Settings, plan: Plan, on_result: Callable[[Any, Result], None] | None
    ) -> None:
        # Who waits here looks in between whether it is to end, so that the client must not wait itself.
        self._settings = settings.model_copy(update={"away_timeout_s": 0.0})
        self._plan = plan
        self._on_result = on_result
        self._maker = JobMaker(self._settings)
        self._maker.check_queue(plan.queue)
        self._maker.chunk_size(plan.chunk)
        self._maker.item("a text", plan.tasks, lang=plan.lang)
        self._handed: queue.SimpleQueue[Handed | None] = queue.SimpleQueue()
        self._awaited: queue.SimpleQueue[tuple[str, Any] | None] = queue.SimpleQueue()
        self._about: dict[str, Any] = {}
        self._came_at = 0.0  # when the last result came, or the first text was sent that waits for one
        self._client: Client | None = None
        self._give_up = threading.Event()
        self._threads: list[threading.Thread] = []
        self._counts = Counts()

    @property
    def counts(self) -> Counts:
        return replace(self._counts)

    def put(self, handed: Handed) -> bool:
        """Take a text, or drop it where there is no room; never waits. One caller at a time."""
        if self._handed.qsize() >= self._plan.capacity or not self._started():
            self._counts.dropped += 1
            return False
        self._counts.taken += 1
        self._handed.put(handed)
        return True

    def close(self, timeout_s: float) -> bool:
        """Send what was taken and await its results, within ``timeout_s`` seconds; False when some of it was
        given up."""
        deadline = time.monotonic() + timeout_s
        self._handed.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        whole = not any(thread.is_alive() for thread in self._threads)
        self._give_up.set()
        while not self._handed.empty():
            self._counts.dropped += self._handed.get() is not None
        return whole

    def _started(self) -> bool:
        if not self._threads:
            works = [self._send_all] if self._on_result is None else [self._send_all, self._take_all]
            threads = [threading.Thread(target=self._run, args=[work], daemon=True) for work in works]
            self._threads = threads
            try:
                for thread in threads:
                    thread.start()
            except RuntimeError:  # the interpreter is on its way out
                self._threads = []
                return False
        return True

    def _run(self, work: Callable[[], None]) -> None:
        _thread.is_ours = True
        work()
        if threading.current_thread() is self._threads[-1] and self._client is not None:
            self._client.close()

    # -- sending ------------------------------------------------------------------------------------------

    def _send_all(self) -> None:
        while chunk := self._next_chunk():
            items, about = self._items(chunk)
            if items and self._has_room() and self._send(items):
                self._counts.sent += len(items)
                if self._on_result is not None:
                    for item, one in zip(items, about, strict=True):
                        self._awaited.put((item.id, one))
            elif items:
                self._counts.dropped += len(items)
        self._awaited.put(None)

    def _next_chunk(self) -> list[Handed]:
        """Empty at the end."""
        chunk: list[Handed] = []
        until = None
        while len(chunk) < self._plan.chunk:
            try:
                one = self._handed.get(timeout=None if until is None else max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if one is None:
                if chunk:
                    self._handed.put(None)  # for the next call
                break
            chunk.append(one)
            until = until or time.monotonic() + self._plan.linger_s
        return chunk

    def _items(self, chunk: Sequence[Handed]) -> tuple[list[RequestItem], list[Any]]:
        items, about = [], []
        for one in chunk:
            source = {"text": one.text, **({"metadata": one.metadata} if one.metadata else {})}
            try:
                items.append(self._maker.item(source, self._plan.tasks, lang=self._plan.lang))
                about.append(one.about)
            except MoodqError as error:
                self._counts.refused += 1
                log.debug("a text was refused: %s", error)
        return items, about

    def _has_room(self) -> bool:
        """Wait until not too many results are awaited; False when it is to end."""
        while len(self._about) + self._awaited.qsize() >= self._plan.capacity:
            if self._give_up.wait(ROOM_LOOK_S):
                return False
        return not self._give_up.is_set()

    def _send(self, items: list[RequestItem]) -> bool:
        plan, failures = self._plan, 0
        while True:
            try:
                if self._client is None:
                    self._client = Client(self._settings)
                sending = self._client.submit_many(
                    items, plan.tasks, queue=plan.queue, chunk=len(items), on_full="wait",
                    full_timeout=FULL_LOOK_S,
                )  # fmt: skip
                return len(list(sending)) == len(items)
            except Unavailable as error:
                failures += 1
                self._tell(failures, error)
            except MoodqError as error:
                log.warning("%d texts were not sent: %s", len(items), error)
                return False
            if self._give_up.wait(backoff_s(failures)):
                return False

    # -- results ------------------------------------------------------------------------------------------

    def _take_all(self) -> None:
        failures = 0
        while not self._give_up.is_set():
            if not self._about and not self._await_one():
                return
            try:
                self._take_some()
                failures = 0
            except WaitTimeout:
                if time.monotonic() - self._came_at >= self._plan.result_timeout_s:
                    self._nobody_answers()
            except Unavailable as error:
                failures += 1
                self._tell(failures, error)
                self._give_up.wait(backoff_s(failures))
            except MoodqError as error:
                log.warning("results are not taken: %s", error)
                self._nobody_answers()
        while self._await_one():
            pass
        self._nobody_answers()

    def _nobody_answers(self) -> None:
        self._counts.unanswered += len(self._about)
        self._about.clear()

    def _await_one(self) -> bool:
        """Wait for a text to have been sent; False at the end."""
        one = self._awaited.get()
        if one is not None:
            self._came_at = time.monotonic()
            self._about[one[0]] = one[1]
        return one is not None

    def _take_some(self) -> None:
        """Results as they come, until none is awaited."""
        assert self._client is not None  # noqa: S101 - something was sent
        again = deque(self._about)

        def next_id() -> str | None:
            if again:
                return again.popleft()
            try:
                one = self._awaited.get_nowait()
            except queue.Empty:
                return None
            if one is None:
                self._awaited.put(None)  # the end, once all results are there
                return None
            self._about[one[0]] = one[1]
            return one[0]

        look_s = min(RESULT_LOOK_S, self._plan.result_timeout_s)
        for result in self._client.wait(Feed(next_id), idle_timeout=look_s):
            self._came_at = time.monotonic()
            self._give(self._about.pop(result.id), result)

    def _give(self, about: Any, result: Result) -> None:
        assert self._on_result is not None  # noqa: S101 - else nothing is awaited
        self._counts.answered += 1
        try:
            self._on_result(about, result)
        except Exception:
            log.exception("on_result failed on item %s", result.id)

    @staticmethod
    def _tell(failures: int, error: Unavailable) -> None:
        if failures == 1:
            log.warning("texts wait to be tagged: %s", error.message)
