"""The worker's loop: pick a batch, run it, hand on what is finished. The engine's only thread.

A turn runs at most one label batch and one decode step, so a label never waits for a whole reply and a reply
never waits for a whole queue.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from typing import cast

from moodq_config.contracts import GeneratedText, LabelScores
from moodq_config.errors import ErrorCode, ModelError
from moodq_config.tasks import GenerateTask, Lang, TaskSet
from moodq_worker.batcher import Batcher, Entry
from moodq_worker.delivery import Delivery
from moodq_worker.engine import DecodeEvent, Engine, Generation
from moodq_worker.items import Item, Job
from moodq_worker.metrics import Metrics

log = logging.getLogger(__name__)

#: Tokens the chat template puts after each text; counted so that the budget means what is computed.
SUFFIX_TOKENS = 5
IDLE_WAIT_S = 0.5
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
        self._max_replies = max_replies
        self._max_wait_s = max_wait_s
        self._batch_tokens = batch_tokens
        self._labels: Batcher[Item] = Batcher(queues, budget=batch_tokens, share=bulk_share)
        self._replies: dict[str, deque[Item]] = {queue: deque() for queue in queues}
        self._decoding: dict[int, Item] = {}
        self._inbox: deque[Job] = deque()
        self._jobs: dict[str, Job] = {}
        self._in_hand: Counter[str] = Counter()
        self._wake = threading.Condition()
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
        for key in list(self._decoding):
            self._engine.cancel(key)

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
            self._run_labels(batch)
        self._admit_replies()
        if self._engine.running:
            self._step()
        self._metrics.running.set(self._engine.running)
        self._metrics.waiting.set(len(self._labels) + sum(map(len, self._replies.values())))
        return bool(batch or self._engine.running or (self._labels and not self._draining))

    def _unpack(self) -> None:
        while self._inbox:
            job = self._inbox.popleft()
            if not job.items:
                self._out().empty_job(job)
            for item in job.items:
                if item.error is not None:
                    self._out().deliver(item)
                elif item.labels_todo:
                    self._queue_label(item)
                else:
                    self._replies[item.queue].append(item)

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
        group = (item.labels_todo[0], item.lang)
        self._labels.add(item.queue, Entry(item.key, group, len(item.tokens) + SUFFIX_TOKENS, item))

    def _keep_started(self, batch: list[Entry[Item]]) -> list[Entry[Item]]:
        return [entry for entry in batch if entry.item.job.started]

    def _run_labels(self, batch: list[Entry[Item]]) -> None:
        items = [entry.item for entry in batch]
        task, lang = cast("tuple[str, Lang]", batch[0].group)
        began = time.monotonic()
        for item in items:
            item.job.started = True
            if item.clock.started is None:
                item.clock.started = began
        scores = self._label_or_halve(task, lang, items)
        spent = time.monotonic() - began
        self._observe_batch(task, lang, batch, spent)
        for item in items:
            item.clock.prefill_s += spent
            found = scores.get(item.key)
            if found is not None:
                item.labels_todo.pop(0)
                item.scores[task] = found
            self._next_stage(item)

    def _label_or_halve(self, task: str, lang: Lang, items: Sequence[Item]) -> dict[int, LabelScores]:
        """Scores by item key. When a batch raises it is run again in halves, so that the text that makes the
        model fail fails alone."""
        try:
            found = self._engine.label(task, lang, [item.tokens for item in items])
            if len(found) != len(items):
                raise RuntimeError(f"the engine gave {len(found)} outcomes for {len(items)} texts")
        except Exception as error:  # noqa: BLE001 - whatever a model raises must not end the worker
            if len(items) == 1:
                self._engine_failed(items[0], error)
                return {}
            middle = len(items) // 2
            log.warning("a batch of %d failed (%s); running it in halves", len(items), type(error).__name__)
            return self._label_or_halve(task, lang, items[:middle]) | self._label_or_halve(
                task, lang, items[middle:]
            )
        usable = {}
        for item, scores in zip(items, found, strict=True):
            if math.isfinite(scores.probability):
                usable[item.key] = scores
            else:
                item.error = ModelError(
                    f"task {task}: the model gave no finite probability for this text",
                    code=ErrorCode.ENGINE_FAILED,
                )
        return usable

    def _next_stage(self, item: Item) -> None:
        if item.error is not None:
            self._out().deliver(item)
        elif item.labels_todo:
            self._queue_label(item)
        elif item.generates_todo:
            labels = {name: found.model_dump() for name, found in item.scores.items() if name in item.results}
            if labels:
                self._out().publish(item, "label", labels)
            self._replies[item.queue].append(item)
        else:
            self._out().deliver(item)

    def _admit_replies(self) -> None:
        """Let waiting replies join the decode batch; tokens prefilled at once are bounded like a batch."""
        admitted: list[Item] = []
        tokens = 0
        for waiting in self._replies.values():
            while waiting and len(self._decoding) + len(admitted) < self._max_replies:
                item = waiting[0]
                if self._draining and not item.job.started:
                    break
                tokens += len(item.tokens) + SUFFIX_TOKENS
                if admitted and tokens > self._batch_tokens:
                    break
                admitted.append(waiting.popleft())
        if admitted:
            self._admit(admitted)

    def _admit(self, items: list[Item]) -> None:
        began = time.monotonic()
        for item in items:
            item.job.started = True
            if item.clock.started is None:
                item.clock.started = began
        try:
            self._engine.admit([self._generation(item) for item in items])
        except Exception as error:  # noqa: BLE001 - as for labels
            if len(items) == 1:
                self._engine_failed(items[0], error)
                self._out().deliver(items[0])
                return
            middle = len(items) // 2
            self._admit(items[:middle])
            self._admit(items[middle:])
            return
        now = time.monotonic()
        for item in items:
            self._decoding[item.key] = item
            item.clock.prefill_s += now - began
            item.clock.decode_began = now
            item.pieces.clear()
            task = item.generates_todo[0]
            self._metrics.prefill_time.labels(task).observe(now - began)
            self._metrics.first_token.labels(task).observe(item.clock.timings().total / 1000)
            self._count_prefill(task, item.lang, len(item.tokens) + SUFFIX_TOKENS)

    def _generation(self, item: Item) -> Generation:
        task = self._tasks[item.generates_todo[0]]
        assert isinstance(task, GenerateTask)  # noqa: S101 - plan() put only those there
        return Generation(item.key, task.name, item.lang, item.steering_label(task), item.tokens)

    def _step(self) -> None:
        began = time.monotonic()
        try:
            events = self._engine.step()
        except Exception as error:  # noqa: BLE001 - as for labels
            log.warning("a decode step failed (%s); its texts fail or are retried", type(error).__name__)
            for item in list(self._decoding.values()):
                self._decoding.pop(item.key)
                self._engine.cancel(item.key)
                self._engine_failed(item, error)
                self._out().deliver(item)
            return
        if events:
            self._metrics.inter_token.observe(time.monotonic() - began)
            self._metrics.generation_tokens.inc(len(events))
        for event in events:
            self._advance(event)

    def _advance(self, event: DecodeEvent) -> None:
        item = self._decoding.get(event.key)
        if item is None:
            return
        item.pieces.append(event.text)
        if event.text:
            self._out().publish(item, "token", {"task": item.generates_todo[0], "text": event.text})
        if event.finish_reason is None:
            return
        del self._decoding[event.key]
        task = item.generates_todo.pop(0)
        began = item.clock.decode_began
        spent = time.monotonic() - began if began is not None else 0.0
        item.clock.decode_s += spent
        self._metrics.decode_time.labels(task).observe(spent)
        item.texts[task] = GeneratedText(
            text="".join(item.pieces).strip(), finish_reason=event.finish_reason, tokens=event.tokens
        )
        self._next_stage(item)

    def _engine_failed(self, item: Item, error: Exception) -> None:
        log.error("item %s: the engine failed: %s", item.id, type(error).__name__, exc_info=error)
        item.error = ModelError(
            f"the model failed on this text ({type(error).__name__})", code=ErrorCode.ENGINE_FAILED
        )

    def _observe_batch(self, task: str, lang: Lang, batch: list[Entry[Item]], spent: float) -> None:
        tokens = sum(entry.tokens for entry in batch)
        self._metrics.batch_items.labels(task).observe(len(batch))
        self._metrics.batch_tokens.labels(task).observe(tokens)
        for entry in batch:
            self._metrics.prefill_time.labels(task).observe(spent)
            self._count_prefill(task, lang, entry.tokens)

    def _count_prefill(self, task: str, lang: Lang, tokens: int) -> None:
        cached = self._engine.prompt_tokens(task, lang)
        self._metrics.prompt_tokens.inc(tokens)
        self._metrics.prefix_queries.inc(cached + tokens)
        self._metrics.prefix_hits.inc(cached)

    def _out(self) -> Delivery:
        if self.delivery is None:
            raise RuntimeError("the loop was started without a delivery")
        return self.delivery
