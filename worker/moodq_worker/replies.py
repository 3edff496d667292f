"""Replies in the loop: which join the running decode batch, one step for all, and who has ended.

When a step fails, the texts that took part begin anew in halves, each half alone, until the one that makes
the model fail is found; the others lose only time.

Used from the engine's thread only.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from moodq_config.answers import GeneratedText, Writing
from moodq_config.errors import MoodqError
from moodq_config.tasks import ExtractTask, GenerateTask, Task
from moodq_worker.engine import DecodeEvent, Engine, Generation
from moodq_worker.extraction import read_extracted
from moodq_worker.fairness import FairShare
from moodq_worker.items import Item
from moodq_worker.metrics import Metrics
from moodq_worker.sentences import to_show
from moodq_worker.time_limit import PassTimeout, PassTimer
from moodq_worker.trace import note_pass

log = logging.getLogger(__name__)

#: Tokens the chat template puts after each text; counted so that the budget means what is computed.
SUFFIX_TOKENS = 5
#: Times in a row that texts may join before those that run take a step: a first token soon, no standstill.
JOINS_PER_STEP = 4


class ReplyStage:
    """Waiting texts by queue, the first queue most urgent, and the running ones by key.

    ``prefill_tokens`` bounds what joins in one turn, so that a label that comes meanwhile waits no longer.
    """

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        queues: Sequence[str],
        share: float,
        weights: Mapping[str, float],
        prefill_tokens: int,
        max_replies: int,
        max_reply_s: float,
        timer: PassTimer,
        next_stage: Callable[[Item], None],
        failed: Callable[[Item, Exception], None],
        publish: Callable[[Item, Any, dict[str, Any]], None],
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._prefill_tokens = prefill_tokens
        self._max_replies = max_replies
        self._max_reply_s = max_reply_s
        self._timer = timer
        self._next_stage = next_stage
        self._failed = failed
        self._publish = publish
        self._waiting: dict[str, deque[Item]] = {queue: deque() for queue in queues}
        self._turns = FairShare(queues, share=share, weights=weights)
        self._running: dict[int, Item] = {}
        self._suspects: list[list[Item]] = []  # groups that failed together; the last one runs next, alone
        self._joins = 0

    def __len__(self) -> int:
        """Texts that wait to join."""
        return sum(map(len, (*self._waiting.values(), *self._suspects)))

    def add(self, item: Item) -> None:
        self._waiting[item.queue].append(item)

    def cancel_all(self) -> None:
        for key in list(self._running):
            self._engine.cancel(key)

    def drop(self, item: Item) -> None:
        """Let a text that is over leave the decode batch, if it is in it."""
        if self._running.pop(item.key, None) is not None:
            self._engine.cancel(item.key)
            self._next_stage(item)

    def turn(self, *, started_only: bool) -> None:
        """Let waiting texts join, or take a step with those that run: never both, so that a label that comes
        meanwhile waits for one forward pass."""
        if self._suspects:
            if self._running:
                self._step()
            else:
                self._admit(self._wanted(self._suspects.pop()))
        elif self._joins < JOINS_PER_STEP and self._join(started_only=started_only):
            self._joins += 1
        else:
            self._joins = 0
            if self._engine.running:
                self._step()

    def _join(self, *, started_only: bool) -> bool:
        """Whether any text joined: the oldest first, while rows, KV memory and this turn's tokens allow."""
        admitted: list[Item] = []
        tokens = 0
        busy = [queue for queue, items in self._waiting.items() if items]
        if not busy:
            return False
        waiting = self._waiting[self._turns.choose(busy) if len(busy) > 1 else busy[0]]
        while waiting:
            item = waiting[0]
            if item.over() or not item.generates_todo:
                self._next_stage(waiting.popleft())
                continue
            if len(self._running) + len(admitted) >= self._max_replies or (
                started_only and not item.job.started
            ):
                break
            tokens += self._new_tokens(item)
            if admitted and tokens > self._prefill_tokens:
                break
            if not self._engine.fits([self._generation(one) for one in [*admitted, item]]):
                break
            admitted.append(waiting.popleft())
        self._admit(admitted)
        return bool(admitted)

    def _wanted(self, items: list[Item]) -> list[Item]:
        wanted = []
        for item in items:
            if item.over() or not item.generates_todo:
                self._next_stage(item)
            else:
                wanted.append(item)
        return wanted

    def _admit(self, items: list[Item]) -> None:
        if not items:
            return
        began = time.monotonic()
        for item in items:
            item.job.started = True
            if item.clock.started is None:
                item.clock.started = began
        try:
            with self._in_engine("prefill", items), self._timer.one_pass():
                self._engine.admit([self._generation(item) for item in items])
        except Exception as error:  # noqa: BLE001 - as for labels
            failed: Exception | None = error if len(items) == 1 else error.with_traceback(None)
        else:
            failed = None
        if failed is not None:
            for item in items:
                self._engine.cancel(item.key)  # should some of them have joined
            if len(items) == 1:
                self._fail(items[0], failed)
                return
            middle = len(items) // 2
            self._admit(items[:middle])
            self._admit(items[middle:])
            return
        now = time.monotonic()
        note_pass(items, [item.generates_todo[0] for item in items], began, now - began)
        for item in items:
            self._running[item.key] = item
            item.clock.prefill_s += now - began
            item.clock.decode_began = now
            item.pieces.clear()
            task = item.generates_todo[0]
            self._metrics.prefill_time.labels(task).observe(now - began, trace_id=item.shown_trace)
            first_token = self._metrics.first_token.labels(item.queue, task)
            first_token.observe(item.clock.timings().total / 1000, trace_id=item.shown_trace)
            cached = self._engine.prompt_tokens(task, item.lang, of=item.tasks)
            self._metrics.count_prefill(self._new_tokens(item), cached)

    def _new_tokens(self, item: Item) -> int:
        return sum(len(tokens) + SUFFIX_TOKENS for tokens in (item.tokens, *item.history_of()))

    def _in_engine(self, stage: str, items: Iterable[Item]) -> AbstractContextManager[None]:
        return self._metrics.cost.engine(stage, Counter(item.queue for item in items))

    def _generation(self, item: Item) -> Generation:
        task = item.tasks[item.generates_todo[0]]
        label = item.steering_label(task) if isinstance(task, GenerateTask) else None
        history = item.history_of()
        return Generation(item.key, task.name, item.lang, label, item.tokens, item.tasks, history)

    def _step(self) -> None:
        began = time.monotonic()
        try:
            with self._in_engine("decode", self._running.values()), self._timer.one_pass():
                events = self._engine.step()
        except Exception as error:  # noqa: BLE001 - as for labels
            failed: Exception | None = error
        else:
            failed = None
        if failed is not None:
            self._begin_anew(failed)
            return
        if events:
            self._metrics.inter_token.observe(time.monotonic() - began)
            self._metrics.generation_tokens.inc(len(events))
        for event in events:
            self._advance(event)
        self._end_late(time.monotonic())

    def _begin_anew(self, error: Exception) -> None:
        """After a failed step: the only text that took part fails; several are divided."""
        items = list(self._running.values())
        self._running.clear()
        for item in items:
            self._engine.cancel(item.key)
        if len(items) == 1:
            self._fail(items[0], error)
            return
        log.warning("a decode step of %d failed (%s); halves begin anew", len(items), type(error).__name__)
        middle = (len(items) + 1) // 2
        self._suspects += [half for half in (items[middle:], items[:middle]) if half]

    def _end_late(self, now: float) -> None:
        """A text may not be in the decode batch for ever; what the others take is its time too."""
        for item in list(self._running.values()):
            if item.clock.decode_began is not None and now - item.clock.decode_began > self._max_reply_s:
                del self._running[item.key]
                self._engine.cancel(item.key)
                limit = f"the reply took more than {self._max_reply_s:g} s (MOODQ_REPLY_TIMEOUT_S)"
                self._fail(item, PassTimeout(limit))

    def _fail(self, item: Item, error: Exception) -> None:
        self._failed(item, error)
        self._next_stage(item)

    def _advance(self, event: DecodeEvent) -> None:
        item = self._running.get(event.key)
        if item is None:
            return
        if event.error is not None:
            del self._running[event.key]
            self._fail(item, ArithmeticError(event.error))
            return
        item.pieces.append(event.text)
        text = self._show(item, event)
        if event.finish_reason is None:
            return
        del self._running[event.key]
        task = item.generates_todo.pop(0)
        item.shown = 0
        began = item.clock.decode_began
        spent = time.monotonic() - began if began is not None else 0.0
        item.clock.decode_s += spent
        if item.trace is not None and began is not None:
            item.trace.note("decode", began, spent, task, event.tokens)
        self._metrics.decode_time.labels(task).observe(spent, trace_id=item.shown_trace)
        try:
            item.texts[task] = written(item.tasks[task], text.strip(), event)
        except MoodqError as error:
            item.error = error
        self._next_stage(item)

    def _show(self, item: Item, event: DecodeEvent) -> str:
        """Publish what is new of the text under way; gives what counts of it by now."""
        name, text = item.generates_todo[0], "".join(item.pieces)
        task = item.tasks[name]
        if not isinstance(task, GenerateTask):
            return text
        end = to_show(
            text,
            item.shown,
            tokens=event.tokens,
            max_tokens=task.max_new_tokens,
            finish_reason=event.finish_reason,
        )
        if end > item.shown:
            self._publish(item, "token", {"task": name, "text": text[item.shown : end]})
            item.shown = end
        return text[:end]


def written(task: Task, text: str, event: DecodeEvent) -> Writing:
    """What the task makes of a text that has ended. Raises ``MoodqError`` when it is of no use."""
    if isinstance(task, ExtractTask):
        return read_extracted(task, text, event.tokens, ended=event.finish_reason == "stop")
    assert event.finish_reason is not None  # noqa: S101 - it has ended
    return GeneratedText(text=text, finish_reason=event.finish_reason, tokens=event.tokens)
