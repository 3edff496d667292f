"""The worker's loop: pick a batch, run it, hand on what is finished. The engine's only thread.

A turn runs at most one label batch and one pass for replies (some join, or all take a step), so a label never
waits for a whole reply and a reply never waits for a whole queue. A label of the first queue does not even
wait for a pass (``preemption``).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import cast

from moodq_config.contracts import LabelScores
from moodq_config.errors import ErrorCode, ModelError
from moodq_config.tasks import Lang, TaskSet
from moodq_worker.batcher import Batcher, Entry
from moodq_worker.delivery import Delivery
from moodq_worker.engine import Engine
from moodq_worker.items import Item, Job
from moodq_worker.metrics import Metrics
from moodq_worker.preemption import Preemption
from moodq_worker.replies import SUFFIX_TOKENS, ReplyStage
from moodq_worker.result_cache import SingleFlight

log = logging.getLogger(__name__)

IDLE_WAIT_S = 0.5
#: Part of the time that replies keep when labels come without end.
REPLIES_SHARE = 0.5
DRAINING_WAIT_S = 0.01


class Loop:
    """Jobs come in by ``accept`` (any thread); outcomes leave through ``delivery``."""

    def __init__(
        self,
        engine: Engine,
        tasks: TaskSet,
        metrics: Metrics,
        *,
        queues: Sequence[str],
        batch_tokens: int,
        bulk_share: float,
        max_replies: int,
        max_wait_s: float,
    ) -> None:
        self._engine = engine
        self._tasks = tasks
        self._metrics = metrics
        self._max_wait_s = max_wait_s
        self._labels: Batcher[Item] = Batcher(queues, budget=batch_tokens, share=bulk_share)
        self._replies = ReplyStage(
            engine,
            tasks,
            metrics,
            queues=queues,
            prefill_tokens=batch_tokens,
            max_replies=max_replies,
            next_stage=self._next_stage,
            failed=self._engine_failed,
            publish=lambda item, event, data: self._out().publish(item, event, data),
        )
        self._inbox: deque[Job] = deque()
        self._ended: list[Item] = []
        self._flights: SingleFlight[Item] = SingleFlight()
        self._jobs: dict[str, Job] = {}
        self._in_hand: Counter[str] = Counter()
        self._wake = threading.Condition()
        self._bulk_share = bulk_share
        self._first_queue = queues[0]
        self._preemption = Preemption(self._run_between_layers)
        engine.between_layers(self._preemption.between_layers)
        self._draining = False
        self._deadline = math.inf
        self.last_turn = time.monotonic()
        self.delivery: Delivery | None = None

    # -- other threads ------------------------------------------------------------------------------------

    def accept(self, job: Job) -> None:
        """Take a checked job from the intake."""
        with self._wake:
            self._inbox.append(job)
            self._jobs[job.claim.execution.id] = job
            self._in_hand[job.claim.queue.name] += len(job.items)
            self._wake.notify()
        if job.claim.queue.name == self._first_queue:
            self._preemption.came()

    def finished(self, job: Job) -> None:
        """A job left for RQ's registries: it no longer counts as in hand."""
        with self._wake:
            self._jobs.pop(job.claim.execution.id, None)
            self._in_hand[job.claim.queue.name] -= len(job.items)
            self._wake.notify()

    def in_hand(self, queue: str) -> int:
        return self._in_hand[queue]

    def drain(self, timeout_s: float) -> None:
        """Start nothing new: ``run`` returns when what has been started is finished, or after
        ``timeout_s``. Takes no lock, so a signal handler may call it."""
        self._deadline = time.monotonic() + timeout_s
        self._draining = True

    # -- the engine's thread ------------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until drained."""
        while not self._done():
            self.last_turn = time.monotonic()
            if not self._turn():
                with self._wake:
                    if not self._inbox:
                        self._wake.wait(DRAINING_WAIT_S if self._draining else IDLE_WAIT_S)
        self._replies.cancel_all()

    def unfinished(self) -> list[Job]:
        """What is still in hand after ``run`` has returned and delivery has been closed."""
        return list(self._jobs.values())

    def _done(self) -> bool:
        if not self._draining:
            return False
        started = any(job.started and job.open for job in list(self._jobs.values()))
        return not started or time.monotonic() >= self._deadline

    def _turn(self) -> bool:
        self._unpack()
        batch = self._labels.next_batch()
        if self._draining:
            batch = self._keep_started(batch)
        if batch:
            self._gather(batch)
            if all(entry.first and entry.item.queue == self._first_queue for entry in batch):
                self._run_labels(batch)
            else:
                with self._preemption.long_pass(self._bulk_share):
                    self._run_labels(batch)
        self._hand_on()
        with self._preemption.long_pass(REPLIES_SHARE):
            self._replies.turn(started_only=self._draining)
        self._hand_on()
        self._metrics.running.set(self._engine.running)
        self._metrics.waiting.set(len(self._labels) + len(self._replies))
        return bool(batch or self._engine.running or (self._labels and not self._draining))

    def _run_between_layers(self) -> bool:
        """Label what came on the first queue and cannot wait; called in the middle of a pass that can."""
        if self._draining:
            return False
        self._unpack()
        if batch := self._labels.first_batch():
            self._run_labels(batch)
        self._hand_on()
        return self._labels.has_first

    def _unpack(self) -> None:
        while self._inbox:
            job = self._inbox.popleft()
            if not job.items:
                self._out().empty_job(job)
            for item in job.items:
                self._next_stage(item)

    def _gather(self, batch: list[Entry[Item]]) -> None:
        """Give a part-filled batch of an idle worker ``max_wait_s`` to find company; off by default."""
        if self._max_wait_s and not self._labels and not self._engine.running:
            with self._wake:
                if not self._inbox:
                    self._wake.wait(self._max_wait_s)
            for entry in batch:
                self._labels.add(entry.item.queue, entry)
            self._unpack()
            batch[:] = self._labels.next_batch()

    def _queue_label(self, item: Item) -> None:
        todo = tuple(item.labels_todo)
        names = todo if len(todo) == 1 else self._tasks.computed_with(todo[0], todo)
        if (flight := item.flight(names)) and self._flights.join(flight, item):
            return
        tokens = len(item.tokens) + SUFFIX_TOKENS * len(names)
        self._labels.add(
            item.queue, Entry(item.key, (names, item.lang), tokens, item, first=not item.generates_todo)
        )

    def _keep_started(self, batch: list[Entry[Item]]) -> list[Entry[Item]]:
        kept = []
        for entry in batch:
            if entry.item.job.started:
                kept.append(entry)
                continue
            # Those that fly with it may have been started, and are waited for.
            names, _ = cast("tuple[tuple[str, ...], Lang]", entry.group)
            for other in self._flights.land(entry.item.flight(names)):
                self._queue_label(other)
        return kept

    def _run_labels(self, batch: list[Entry[Item]]) -> None:
        items = [entry.item for entry in batch]
        names, lang = cast("tuple[tuple[str, ...], Lang]", batch[0].group)
        began = time.monotonic()
        for item in items:
            item.job.started = True
            if item.clock.started is None:
                item.clock.started = began
        scores = self._label_or_halve(names, lang, items)
        spent = time.monotonic() - began
        self._observe_batch(names[0], lang, batch, spent)
        for item in items:
            item.clock.prefill_s += spent
            landed = self._flights.land(item.flight(names))
            for name, found in zip(names, scores.get(item.key, ()), strict=False):
                item.labels_todo.remove(name)
                item.scores[name] = found
                for other in landed:
                    other.know(name, found, "exact" if other.text == item.text else "template")
            for other in (item, *landed):
                self._next_stage(other)

    def _label_or_halve(
        self, names: Sequence[str], lang: Lang, items: Sequence[Item]
    ) -> dict[int, list[LabelScores]]:
        """Scores by item key. When a batch raises it is run again in halves, so that the text that makes the
        model fail fails alone."""
        try:
            found = self._engine.label(names, lang, [item.tokens for item in items])
            if len(found) != len(items):
                raise RuntimeError(f"the engine gave {len(found)} outcomes for {len(items)} texts")
        except Exception as error:  # noqa: BLE001 - whatever a model raises must not end the worker
            if len(items) == 1:
                self._engine_failed(items[0], error)
                return {}
            middle = len(items) // 2
            log.warning("a batch of %d failed (%s); running it in halves", len(items), type(error).__name__)
            return self._label_or_halve(names, lang, items[:middle]) | self._label_or_halve(
                names, lang, items[middle:]
            )
        usable = {}
        for item, scores in zip(items, found, strict=True):
            broken = [
                name for name, one in zip(names, scores, strict=True) if not math.isfinite(one.probability)
            ]
            if not broken:
                usable[item.key] = scores
            else:
                item.error = ModelError(
                    f"task {broken[0]}: the model gave no finite probability for this text",
                    code=ErrorCode.ENGINE_FAILED,
                )
        return usable

    def _hand_on(self) -> None:
        """Give delivery what has ended: a batch at once, since each call wakes its thread."""
        if self._ended:
            ended, self._ended = self._ended, []
            self._out().deliver(ended)

    def _next_stage(self, item: Item) -> None:
        if item.error is not None:
            self._ended.append(item)
        elif item.labels_todo:
            self._queue_label(item)
        elif item.generates_todo:
            labels = {name: found.model_dump() for name, found in item.scores.items() if name in item.results}
            if labels:
                self._out().publish(item, "label", labels)
            self._replies.add(item)
        else:
            self._ended.append(item)

    def _engine_failed(self, item: Item, error: Exception) -> None:
        log.error("item %s: the engine failed: %s", item.id, type(error).__name__, exc_info=error)
        item.error = ModelError(
            f"the model failed on this text ({type(error).__name__})", code=ErrorCode.ENGINE_FAILED
        )

    def _observe_batch(self, task: str, lang: Lang, batch: list[Entry[Item]], spent: float) -> None:
        tokens = sum(entry.tokens for entry in batch)
        cached = self._engine.prompt_tokens(task, lang)
        self._metrics.batch_items.labels(task).observe(len(batch))
        self._metrics.batch_tokens.labels(task).observe(tokens)
        self._metrics.count_prefill(tokens, cached * len(batch))
        prefill_time = self._metrics.prefill_time.labels(task)
        for _ in batch:
            prefill_time.observe(spent)

    def _out(self) -> Delivery:
        if self.delivery is None:
            raise RuntimeError("the loop was started without a delivery")
        return self.delivery
