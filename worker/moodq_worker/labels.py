"""Labels in the loop: which texts run together, one pass for all, and what each learns from it.

The peer of ``replies``. Used from the engine's thread only.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from moodq_config.answers import Judgement
from moodq_config.tasks import Lang, MultilabelTask, RerankTask, TaskSet
from moodq_worker.batcher import Batcher, Entry
from moodq_worker.engine import Engine
from moodq_worker.items import Item
from moodq_worker.metrics import Metrics
from moodq_worker.replies import SUFFIX_TOKENS
from moodq_worker.result_cache import SingleFlight
from moodq_worker.time_limit import PassTimer
from moodq_worker.trace import note_pass

log = logging.getLogger(__name__)

Batch = list[Entry[Item]]
#: What texts must have in common to run together: tasks, language, labels that came with the request, and the
#: set that the tasks are of.
Group = tuple[tuple[str, ...], Lang, tuple[str, ...], TaskSet]


class NotFinite(ArithmeticError):
    """The model gave NaN or infinity."""


class LabelStage:
    """Texts that wait for labels. ``next_stage`` gets each as soon as its labels are known, or failed."""

    def __init__(
        self,
        engine: Engine,
        metrics: Metrics,
        *,
        queues: Sequence[str],
        batch_tokens: int,
        share: float,
        weights: Mapping[str, float],
        timer: PassTimer,
        next_stage: Callable[[Item], None],
        failed: Callable[[Item, Exception], None],
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._timer = timer
        self._next_stage = next_stage
        self._failed = failed
        self._batcher: Batcher[Item] = Batcher(queues, budget=batch_tokens, share=share, weights=weights)
        self._flights: SingleFlight[Item] = SingleFlight()

    def __len__(self) -> int:
        """Texts that wait, without those that fly with another."""
        return len(self._batcher)

    @property
    def has_first(self) -> bool:
        """Whether a text that goes first waits in the first queue."""
        return self._batcher.has_first

    def add(self, item: Item) -> None:
        todo = tuple(item.labels_todo)
        names = todo if len(todo) == 1 else item.tasks.computed_with(todo[0], todo)
        if (flight := item.flight(names)) and self._flights.join(flight, item):
            return
        group: Group = (names, item.lang, item.choices(names[0]), item.tasks)
        tokens = self._new_tokens(names, item)
        self._batcher.add(item.queue, Entry(item.key, group, tokens, item, first=not item.generates_todo))

    def next_batch(self, *, started_only: bool) -> Batch:
        """What runs next, taken out of what waits, without the texts that are over; with ``started_only``
        also without those of jobs that have not been started, which are given up."""
        while batch := self._batcher.next_batch():
            if kept := self._wanted(self._keep_started(batch) if started_only else batch):
                return kept
        return []

    def first_batch(self) -> Batch:
        """A batch of texts that go first in the first queue; empty when there are none."""
        while batch := self._batcher.first_batch():
            if kept := self._wanted(batch):
                return kept
        return []

    def put_back(self, batch: Batch) -> None:
        """Let a batch wait again."""
        for entry in batch:
            self._batcher.add(entry.item.queue, entry)

    def run(self, batch: Batch) -> None:
        """One forward pass, or several when it raises."""
        items = [entry.item for entry in batch]
        group = names, *_ = _group(batch[0])
        began = time.monotonic()
        for item in items:
            item.job.started = True
            if item.clock.started is None:
                item.clock.started = began
        with self._metrics.cost.engine("prefill", Counter(item.queue for item in items)):
            scores = self._label_or_halve(group, items)
        spent = time.monotonic() - began
        self._observe(group, batch, spent)
        note_pass(items, names, began, spent)
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

    def _new_tokens(self, names: Sequence[str], item: Item) -> int:
        """Counted so that a batch's budget means what is computed."""
        task = item.tasks[names[0]]
        if isinstance(task, RerankTask):
            return len(item.tokens) + sum(len(document) + SUFFIX_TOKENS for document in item.documents)
        asked = len(task.labels) if isinstance(task, MultilabelTask) else len(names)
        return len(item.tokens) + SUFFIX_TOKENS * (asked + len(item.choices(names[0])))

    def _keep_started(self, batch: Batch) -> Batch:
        kept = []
        for entry in batch:
            if entry.item.job.started:
                kept.append(entry)
            else:
                self._let_others_fly(entry)  # they may have been started, and are waited for
        return kept

    def _wanted(self, batch: Batch) -> Batch:
        kept = []
        for entry in batch:
            if entry.item.over():
                self._let_others_fly(entry)
                self._next_stage(entry.item)
            else:
                kept.append(entry)
        return kept

    def _let_others_fly(self, entry: Entry[Item]) -> None:
        """Those that fly with a text that is not run wait on their own."""
        for other in self._flights.land(entry.item.flight(_group(entry)[0])):
            self.add(other)

    def _label_or_halve(self, group: Group, items: Sequence[Item]) -> dict[int, list[Judgement]]:
        """Scores by item key. What makes the model raise, take too long or give no numbers fails alone: a
        batch that raises, and the texts of one that got no numbers, are run again in halves."""
        found, error = self._label(group, items)
        usable: dict[int, list[Judgement]] = {}
        again: Sequence[Item] = items
        if error is None:
            again = []
            for item, scores in zip(items, found, strict=True):
                if all(one.finite for one in scores):
                    usable[item.key] = scores
                else:
                    again.append(item)
            error = NotFinite()
        if len(items) == 1 and again:
            self._failed(items[0], error)
        elif again:
            log.warning(
                "%d texts of a batch of %d failed (%s); running them in halves",
                len(again),
                len(items),
                type(error).__name__,
            )
            middle = (len(again) + 1) // 2
            for half in (again[:middle], again[middle:]):
                if half:
                    usable |= self._label_or_halve(group, half)
        return usable

    def _label(self, group: Group, items: Sequence[Item]) -> tuple[list[list[Judgement]], Exception | None]:
        """One pass. The error of a batch is returned without its traceback: that would keep the tensors of
        the pass alive while the halves run, which may be what there was no memory for."""
        try:
            with self._timer.one_pass():
                found = self._judge(group, items)
            if len(found) != len(items):
                raise RuntimeError(f"the engine gave {len(found)} outcomes for {len(items)} texts")
        except Exception as error:  # noqa: BLE001 - whatever a model raises must not end the worker
            return [], error if len(items) == 1 else error.with_traceback(None)
        return found, None

    def _judge(self, group: Group, items: Sequence[Item]) -> list[list[Judgement]]:
        names, lang, choices, of = group
        if isinstance(of[names[0]], RerankTask):
            # Each has a query of its own, and its documents fill a pass.
            return [
                [self._engine.rerank(names[0], lang, item.tokens, item.documents, of=of)] for item in items
            ]
        return self._engine.label(names, lang, [item.tokens for item in items], choices, of=of)

    def _observe(self, group: Group, batch: Batch, spent: float) -> None:
        [task, *_], lang, _, of = group
        tokens = sum(entry.tokens for entry in batch)
        cached = self._engine.prompt_tokens(task, lang, of=of)
        self._metrics.batch_items.labels(task).observe(len(batch))
        self._metrics.batch_tokens.labels(task).observe(tokens)
        self._metrics.count_prefill(tokens, cached * len(batch))
        self._metrics.prefill_time.labels(task).observe(spent, times=len(batch))


def _group(entry: Entry[Item]) -> Group:
    return cast("Group", entry.group)
