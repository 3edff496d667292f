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
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from moodq_config.errors import ErrorCode, ModelError
from moodq_config.tasks import TaskSet
from moodq_worker.delivery import Delivery
from moodq_worker.engine import Engine
from moodq_worker.items import NO_TASKS, Item, Job
from moodq_worker.labels import Batch, LabelStage
from moodq_worker.metrics import Metrics
from moodq_worker.preemption import Preemption
from moodq_worker.replies import ReplyStage
from moodq_worker.time_limit import Abandoned, PassTimeout, PassTimer

if TYPE_CHECKING:
    from moodq_worker.remote.stage import HandOff  # needs the extra `remote`

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
        weights: Mapping[str, float],
        max_replies: int,
        max_wait_s: float,
        max_pass_s: float = math.inf,
        max_reply_s: float = math.inf,
        hand_off: HandOff | None = None,
    ) -> None:
        self._engine = engine
        self._tasks = tasks
        self._metrics = metrics
        self._max_wait_s = max_wait_s
        self._timer = PassTimer(max_pass_s, started=self._touch)
        turns: dict[str, Any] = {"queues": queues, "share": bulk_share, "weights": weights}
        self._labels = LabelStage(
            engine,
            metrics,
            **turns,
            timer=self._timer,
            batch_tokens=batch_tokens,
            next_stage=self._next_stage,
            failed=self._engine_failed,
        )
        self._replies = ReplyStage(
            engine,
            metrics,
            **turns,
            timer=self._timer,
            prefill_tokens=batch_tokens,
            max_replies=max_replies,
            max_reply_s=max_reply_s,
            next_stage=self._next_stage,
            failed=self._engine_failed,
            publish=lambda item, event, data: self._out().publish(item, event, data),
        )
        self._hand_off = hand_off
        if hand_off is not None:
            hand_off.answered = self._answered
        self._answers_wait = False
        self._inbox: deque[Job] = deque()
        self._unwanted: deque[tuple[str, str]] = deque()  # "item", "job" or "conversation", and its id
        self._edits: deque[TaskSet] = deque()
        self._retiring = False
        self._ended: list[Item] = []
        self._jobs: dict[str, Job] = {}
        #: Items by queue: those that need the engine, and all that memory is held for.
        self._in_hand: Counter[str] = Counter()
        self._held: Counter[str] = Counter()
        self._wake = threading.Condition()
        self._bulk_share = bulk_share
        self._first_queue = queues[0]
        self._preemption = Preemption(self._run_between_layers)
        engine.between_layers(self._between_layers)
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
            self._in_hand[job.claim.queue.name] += job.unknown
            self._held[job.claim.queue.name] += len(job.items)
            self._wake.notify()
        self._metrics.cost.took()
        if job.claim.queue.name == self._first_queue:
            self._preemption.came()

    def _answered(self) -> None:
        """The endpoint has answered, or failed to."""
        with self._wake:
            self._answers_wait = True
            self._wake.notify()

    def finished(self, job: Job) -> None:
        """A job left for RQ's registries: it no longer counts as in hand."""
        with self._wake:
            self._jobs.pop(job.claim.execution.id, None)
            self._in_hand[job.claim.queue.name] -= job.unknown
            self._held[job.claim.queue.name] -= len(job.items)
            self._wake.notify()
        self._metrics.cost.ended(job.claim.queue.name)

    def cancel(self, item_id: str) -> None:
        """Do nothing more for an item in hand; its running reply stops before the next decode step."""
        self._unwanted.append(("item", item_id))

    def stop_job(self, job_id: str) -> None:
        """Do nothing more for the items of a job in hand."""
        self._unwanted.append(("job", job_id))

    def take_over(self, conversation: str) -> None:
        """Answer no more in a conversation: a person does."""
        self._unwanted.append(("conversation", conversation))

    def use_tasks(self, tasks: TaskSet) -> None:
        """These definitions are in force from now on; what is in hand is finished by those it was read by."""
        with self._wake:
            self._edits.append(tasks)
            self._wake.notify()

    def in_hand(self, queue: str) -> int:
        """Items of jobs in hand that need the engine. A job of which all but a few lines were known already
        counts as those few, so that they find company for a batch among the jobs behind it."""
        return self._in_hand[queue]

    def held(self, queue: str) -> int:
        """All items of jobs in hand."""
        return self._held[queue]

    def drain(self, timeout_s: float) -> None:
        """Start nothing new: ``run`` returns when what has been started is finished, or after
        ``timeout_s``. Takes no lock, so a signal handler may call it."""
        self._deadline = time.monotonic() + timeout_s
        self._draining = True

    def abandon(self) -> None:
        """End ``run`` at once, in the middle of a pass if need be; what is in hand is ``unfinished``. Takes
        no lock either."""
        self.drain(0.0)
        self._timer.abandon()

    # -- the engine's thread ------------------------------------------------------------------------------

    def run(self) -> None:
        """Turn until drained, or abandoned."""
        try:
            while not self._done():
                self._touch()
                if not self._turn():
                    with self._wake:
                        if not (self._inbox or self._answers_wait):
                            self._wake.wait(DRAINING_WAIT_S if self._draining else IDLE_WAIT_S)
        except Abandoned:
            log.warning("the pass under way was left")
        else:
            self._replies.cancel_all()

    def unfinished(self) -> list[Job]:
        """What is still in hand after ``run`` has returned and delivery has been closed."""
        return list(self._jobs.values())

    def _done(self) -> bool:
        if not self._draining:
            return False
        started = any(job.started and job.open for job in list(self._jobs.values()))
        return not started or time.monotonic() >= self._deadline

    def _touch(self) -> None:
        self.last_turn = time.monotonic()

    def _turn(self) -> bool:
        self._follow_edits()
        self._unpack()
        while self._unwanted:
            self._drop(*self._unwanted.popleft())
        batch = self._labels.next_batch(started_only=self._draining)
        if batch:
            self._gather(batch)
        if batch:
            if all(entry.first and entry.item.queue == self._first_queue for entry in batch):
                self._labels.run(batch)
            else:
                with self._preemption.long_pass(self._bulk_share):
                    self._labels.run(batch)
        self._hand_on()
        with self._preemption.long_pass(REPLIES_SHARE):
            self._replies.turn(started_only=self._draining)
        self._hand_on()
        self._metrics.running.set(self._engine.running)
        waiting = len(self._labels) + len(self._replies)
        self._metrics.waiting.set(waiting)
        return bool(batch or self._engine.running or (waiting and not self._draining))

    def _follow_edits(self) -> None:
        while self._edits:
            self._tasks = self._edits.popleft()
            self._engine.use_tasks(self._tasks)
            self._retiring = True
        if self._retiring and not any(
            item.tasks not in (self._tasks, NO_TASKS)
            for job in list(self._jobs.values())
            for item in job.items
        ):
            self._retiring = False
            self._engine.retire_tasks()

    def _drop(self, kind: str, id: str) -> None:
        for job in list(self._jobs.values()):
            for item in list(job.items):
                if kind == "conversation":
                    if item.conversation == id and item.error is None:
                        self._take_over(item)
                elif (item.id if kind == "item" else job.id) == id:
                    item.cancel()
                    self._replies.drop(item)  # elsewhere it is found to be over

    def _take_over(self, item: Item) -> None:
        """A person answers from now on. What waits for labels hears of it when it has them: texts that share
        a label know each other by what is still to be done for them."""
        item.taken_over = True
        if not item.labels_todo:
            answering = item.generates_todo[:1]
            item.settle()
            if item.generates_todo[:1] != answering:
                self._replies.drop(item)

    def _between_layers(self) -> None:
        self._timer.check()
        self._preemption.between_layers()

    def _run_between_layers(self) -> bool:
        """Label what came on the first queue and cannot wait; called in the middle of a pass that can."""
        if self._draining:
            return False
        self._unpack()
        if batch := self._labels.first_batch():
            self._labels.run(batch)
        self._hand_on()
        return self._labels.has_first

    def _unpack(self) -> None:
        while self._inbox:
            job = self._inbox.popleft()
            if not job.items:
                self._out().empty_job(job)
            for item in job.items:
                # It may have been read before an edit whose definitions are retired already.
                self._retiring |= item.tasks not in (self._tasks, NO_TASKS)
                self._next_stage(item)
        if self._answers_wait and self._hand_off is not None:
            self._answers_wait = False  # before looking: one that comes meanwhile is looked for again
            for item, task, written in self._hand_off.take_answers():
                if written is not None:
                    self._out().publish(item, "token", {"task": task, "text": written})
                self._next_stage(item)

    def _gather(self, batch: Batch) -> None:
        """Give a part-filled batch of an idle worker ``max_wait_s`` to find company; off by default."""
        if self._max_wait_s and not self._labels and not self._engine.running:
            with self._wake:
                if not self._inbox:
                    self._wake.wait(self._max_wait_s)
            self._labels.put_back(batch)
            self._unpack()
            batch[:] = self._labels.next_batch(started_only=self._draining)

    def _hand_on(self) -> None:
        """Give delivery what has ended: a batch at once, since each call wakes its thread."""
        if self._ended:
            ended, self._ended = self._ended, []
            self._out().deliver(ended)

    def _next_stage(self, item: Item) -> None:
        if item.error is not None:
            self._ended.append(item)
        elif self._handed_over(item):
            pass
        elif item.labels_todo:
            self._labels.add(item)
        else:
            item.settle()
            if item.generates_todo:
                if item.generates_todo[0] not in item.handed_over:
                    self._tell_labels(item)
                self._replies.add(item)
            else:
                self._ended.append(item)

    def _handed_over(self, item: Item) -> bool:
        """Whether the endpoint is asked next, from which ``item`` comes back to its next stage."""
        if self._hand_off is None or (self._draining and not item.job.started):
            return False
        while (name := self._hand_off.next_task(item)) is not None:
            if item.over():
                self._ended.append(item)
                return True
            if name in item.generates_todo:
                item.settle()
                if name not in item.generates_todo:
                    continue
                self._tell_labels(item)
            if self._hand_off.send(item, name):
                return True
        return False

    def _tell_labels(self, item: Item) -> None:
        labels = {name: found.model_dump() for name, found in item.scores.items() if name in item.results}
        if labels:
            self._out().publish(item, "label", labels)
        if item.route is not None and not item.pushed:
            item.pushed = True
            self._out().route(item)

    def _engine_failed(self, item: Item, error: Exception) -> None:
        log.error("item %s: the engine failed: %s", item.id, type(error).__name__, exc_info=error)
        if isinstance(error, PassTimeout):
            item.error = ModelError(f"{error.message} on this text alone", code=error.code)
        else:
            item.error = ModelError(
                f"the model failed on this text ({type(error).__name__})", code=ErrorCode.ENGINE_FAILED
            )

    def _out(self) -> Delivery:
        if self.delivery is None:
            raise RuntimeError("the loop was started without a delivery")
        return self.delivery
