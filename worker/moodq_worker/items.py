"""What the worker has in hand: jobs, their items, and how far each item is.

One ``Item`` travels from ``intake`` through ``batcher`` and ``loop`` to ``delivery``; its ``Job`` is
finished when its last item is.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from moodq_config.answers import Answer, ChosenLabel, GeneratedText, Judgement, LabelScores, Writing
from moodq_config.contracts import Cut, ItemError, MadeBy, RequestItem, Silence, Timings, Truncated
from moodq_config.conversations import Routed, Turn
from moodq_config.errors import ErrorCode, MoodqError
from moodq_config.routes import Route
from moodq_config.tasks import ChooseTask, GenerateTask, JudgeTask, Lang, Task, TaskSet
from moodq_worker.result_cache import Kind
from moodq_worker.rq_claim import Claim
from moodq_worker.trace import Trace

_keys = itertools.count(1)
NO_TASKS = TaskSet({})


@dataclass(slots=True)
class Clock:
    """Where an item's time goes. Wall-clock seconds for what crosses processes, monotonic for the rest."""

    enqueued_at: float
    claimed_at: float
    claimed: float = field(default_factory=time.monotonic)
    started: float | None = None
    prefill_s: float = 0.0
    decode_began: float | None = None
    decode_s: float = 0.0
    remote_s: float | None = None  # None: no endpoint was asked

    def timings(self) -> Timings:
        now = time.monotonic()
        begun = self.started if self.started is not None else now
        return Timings(
            queue=_ms(self.claimed_at - self.enqueued_at),
            batch=_ms(begun - self.claimed),
            prefill=_ms(self.prefill_s),
            decode=_ms(self.decode_s),
            total=_ms(self.claimed_at - self.enqueued_at + now - self.claimed),
            remote=None if self.remote_s is None else _ms(self.remote_s),
        )


@dataclass(slots=True, eq=False)
class Job:
    """A claimed job. ``open`` counts the items that have no outcome yet."""

    claim: Claim
    items: list[Item] = field(default_factory=list)
    open: int = 0
    unknown: int = 0  # items that need the engine
    skipped: int = 0  # items an earlier attempt had already finished
    started: bool = False
    result_bytes: int = 0  # of Redis, which its results may take
    trace_id: str | None = None
    trace: Trace | None = None  # None: not traced

    @property
    def id(self) -> str:
        return str(self.claim.job.id)


@dataclass(slots=True, eq=False)
class Item:
    """One text and what is still to be done with it. ``todo`` holds task names in the order they must run."""

    job: Job
    id: str
    queue: str
    clock: Clock
    request: RequestItem | None = None
    lang: Lang = "en"
    tasks: TaskSet = NO_TASKS  # those in force when it was read: it is finished by them, whatever is edited
    tokens: list[int] = field(default_factory=list)
    documents: list[list[int]] = field(default_factory=list)  # tokens of each
    labels_todo: list[str] = field(default_factory=list)
    generates_todo: list[str] = field(default_factory=list)
    choosing: set[str] = field(default_factory=set)  # tasks whose labels came with the request
    scores: dict[str, Judgement | ChosenLabel] = field(default_factory=dict)
    texts: dict[str, Writing] = field(default_factory=dict)
    pieces: list[str] = field(default_factory=list)
    #: Characters of the reply under way that were published; one that begins anew says nothing twice.
    shown: int = 0
    deadline: float | None = None  # unix seconds after which it is not started
    error: MoodqError | None = None
    told: bool = False  # its failed result is there already, and stands
    truncated: Truncated | None = None
    cache_keys: dict[str, bytes] = field(default_factory=dict)  # by task
    cached: dict[str, Kind] = field(default_factory=dict)  # the tasks whose answer was known
    handed_over: set[str] = field(default_factory=set)  # tasks an endpoint was asked for, or was to be
    made_by: dict[str, MadeBy] = field(default_factory=dict)  # tasks it answered
    #: What its conversation held when it was claimed; the texts, and their tokens, that its reply's prompt
    #: gets of it: a customer's message, its answer, and so on.
    said: tuple[Turn, ...] = ()
    earlier: tuple[str, ...] = ()
    history: tuple[Sequence[int], ...] = ()
    trace_id: str | None = None
    trace: Trace | None = None  # its own, or its job's
    silenced: dict[str, Silence] | None = None  # tasks that do not answer the customer
    taken_over: bool = False  # a person answers in its conversation
    route: Route | None = None
    settled: bool = False  # its labels are known, and the rules have been asked
    pushed: bool = False  # its route has it before its result is there
    key: int = field(default_factory=_keys.__next__)

    def over(self) -> bool:
        """Whether nothing is to be done for it any more: cancelled, failed, or past its deadline. Asked
        before what costs something."""
        if self.error is None and self.deadline is not None and time.time() >= self.deadline:
            self.error = MoodqError(
                "the item's deadline passed before it was started; send it again with a later one, or start "
                "more workers",
                code=ErrorCode.DEADLINE_EXCEEDED,
            )
        return self.error is not None

    @property
    def conversation(self) -> str | None:
        return self.request.conversation if self.request else None

    @property
    def answering(self) -> list[str]:
        """Those of the request's tasks that write what is said to the customer."""
        asked = self.request.tasks if self.request else ()
        return [name for name in asked if _answers(self.tasks[name])]

    def history_of(self) -> tuple[Sequence[int], ...]:
        """The tokens of what was said before that the task it is about to be written by may know."""
        return self.history if self.history and _answers(self.tasks[self.generates_todo[0]]) else ()

    def settle(self) -> None:
        """Its labels are known: by the rules a person gets it, unless one answers there already; and the
        model says nothing where a person does."""
        if not self.settled:
            self.settled = True
            if self.tasks.routes and not self.taken_over:
                self.route = self.tasks.routes.of(self.scores)
        if self.taken_over:
            self.silence("taken_over")
        elif self.route is not None and not self.route.reply:
            self.silence("route")

    def silence(self, why: Silence) -> None:
        """Leave out what is still to be said to the customer."""
        unsaid = [name for name in self.generates_todo if _answers(self.tasks[name])]
        if unsaid:
            self.generates_todo = [name for name in self.generates_todo if name not in unsaid]
            self.silenced = dict.fromkeys(unsaid, why)
            self.shown = 0

    @property
    def sent_at(self) -> str:
        """When the message was sent, in ISO 8601."""
        return datetime.fromtimestamp(self.clock.enqueued_at, UTC).isoformat(timespec="microseconds")

    def message(self) -> Routed | None:
        """What its route gets."""
        if self.route is None or self.request is None:
            return None
        named = self.tasks.routes.tasks(self.route)
        return Routed(
            id=self.id,
            route=self.route.route,
            text=self.text,
            lang=self.lang,
            results={name: self.scores[name] for name in named if name in self.scores},
            reply=self.route.reply,
            conversation=self.conversation,
            turns=self.said,
            metadata=self.request.metadata,
            at=self.sent_at,
        )

    def turns(self, written_at: str) -> list[Turn]:
        """What it adds to its conversation, when its result is written at ``written_at``."""
        if self.conversation is None or not self.answering:
            return []
        labels = {
            name: found.label
            for name, found in self.scores.items()
            if isinstance(found, LabelScores | ChosenLabel) and name in self.results
        }
        sent_at = self.sent_at
        said = [Turn(role="user", text=self.text, at=sent_at, item=self.id, labels=labels or None)]
        for name in self.answering:
            answer = self.texts.get(name)
            if isinstance(answer, GeneratedText) and answer.text:
                at = max(sent_at, written_at)  # which may have been rounded down
                said.append(Turn(role="assistant", text=answer.text, at=at, item=self.id))
        return said

    def stand(self, code: str, message: str) -> None:
        """It failed in an earlier attempt of its job, and whoever waited has been told."""
        self.told = True
        if self.error is None:
            known = ErrorCode(code) if code in set(ErrorCode) else ErrorCode.INTERNAL
            self.error = MoodqError(message, code=known)

    def cancel(self) -> None:
        """Nothing more is done for it, unless it has ended already."""
        if self.error is None:
            self.error = MoodqError("the item was cancelled", code=ErrorCode.CANCELLED)

    def plan(self, tasks: TaskSet) -> None:
        """Fill the to-do lists from the request: labels first, and the label a reply listens to."""
        assert self.request is not None  # noqa: S101 - intake sets it before planning
        self.tasks = tasks
        for name in self.request.tasks:
            task = tasks[name]
            if isinstance(task, JudgeTask):
                self._need_label(name)
                if isinstance(task, ChooseTask):
                    self.choosing.add(name)
                continue
            if isinstance(task, GenerateTask) and task.after:
                self._need_label(task.after)
            if name not in self.generates_todo:
                self.generates_todo.append(name)

    def cut_text(self, max_chars: int) -> None:
        """Keep the beginning of a text that is longer."""
        if len(self.text) > max_chars and self.request is not None:
            self.truncated = Truncated(characters=Cut(kept=max_chars, of=len(self.text)))
            self.request = self.request.model_copy(update={"text": self.text[:max_chars]})

    def cut_tokens(self, max_tokens: int) -> None:
        """Keep the first tokens. What is said of them is no answer to the whole text, so it is not kept."""
        cut = Cut(kept=max_tokens, of=len(self.tokens))
        self.truncated = Truncated(
            characters=self.truncated.characters if self.truncated else None, tokens=cut
        )
        self.tokens = self.tokens[:max_tokens]
        self.cache_keys.clear()

    def know(self, task: str, answer: Answer, kind: Kind) -> None:
        """Take the answer of a task that need not be computed."""
        self.cached[task] = kind
        if isinstance(answer, Writing):
            self.generates_todo.remove(task)
            self.texts[task] = answer
        else:
            self.labels_todo.remove(task)
            self.scores[task] = answer

    def take_remote(
        self, task: str, answer: ChosenLabel | LabelScores | GeneratedText, made_by: MadeBy
    ) -> None:
        """Take what a remote endpoint answered, in place of what the model here may have said."""
        self.made_by[task] = made_by
        self.cached.pop(task, None)
        if isinstance(answer, GeneratedText):
            if task in self.generates_todo:  # else a person answers by now
                self.generates_todo.remove(task)
                self.texts[task] = answer
            return
        if task in self.labels_todo:
            self.labels_todo.remove(task)
        self.scores[task] = answer

    @property
    def made_elsewhere(self) -> dict[str, MadeBy] | None:
        """Who answered the tasks of the result that the model here did not; None when it answered all."""
        return {task: self.made_by[task] for task in self.results if task in self.made_by} or None

    def flight(self, names: Sequence[str]) -> tuple[object, ...]:
        """What items that wait for the same labels share; empty for those that are never shared. Only items
        of one urgency do: a message must not wait for its like in a full bulk queue."""
        keys = [self.cache_keys.get(name) for name in names]
        return () if None in keys else (self.queue, bool(self.generates_todo), names, *keys)

    def plan_again(self) -> None:
        """After ``know``: a label that would only steer a text that is known is not needed."""
        asked = self.request.tasks if self.request else ()
        steering = {getattr(self.tasks[name], "after", None) for name in self.generates_todo}
        self.labels_todo = [name for name in self.labels_todo if name in asked or name in steering]

    @property
    def text(self) -> str:
        return self.request.text if self.request else ""

    @property
    def shown_trace(self) -> str | None:
        """The id of its trace, if spans of it are sent."""
        return None if self.trace is None else self.trace_id

    @property
    def cached_as(self) -> Kind | None:
        """How the whole result was known; None when any of it was computed."""
        if not self.cached or len(self.cached) < len(self.scores) + len(self.texts):
            return None
        kinds = self.cached.values()
        return "pinned" if "pinned" in kinds else "template" if "template" in kinds else "exact"

    def choices(self, name: str) -> tuple[str, ...]:
        """The labels that task ``name`` chooses among when they came with the request."""
        labels = self.request.labels if self.request and name in self.choosing else None
        return labels or ()

    def steering_label(self, task: GenerateTask) -> str | None:
        found = self.scores.get(task.after) if task.after else None
        if isinstance(found, LabelScores):
            return found.best
        return found.label if isinstance(found, ChosenLabel) else None

    @property
    def results(self) -> dict[str, Answer]:
        """The tasks the request named, in its order; a label computed only to steer is left out."""
        if self.request is None:
            return {}
        scores, texts = self.scores, self.texts
        return {
            name: scores[name] if name in scores else texts[name]
            for name in self.request.tasks
            if name in scores or name in texts
        }

    @property
    def revisions(self) -> dict[str, str]:
        """Of the definitions of the tasks that the request named."""
        return {name: self.tasks.revision_of(name) for name in self.request.tasks} if self.request else {}

    @property
    def item_error(self) -> ItemError | None:
        return ItemError(code=str(self.error.code), message=self.error.message) if self.error else None

    def _need_label(self, name: str) -> None:
        if name not in self.labels_todo:
            self.labels_todo.append(name)


def _answers(task: Task) -> bool:
    return isinstance(task, GenerateTask) and task.conversation


def _ms(seconds: float) -> float:
    return int(seconds * 1e6) / 1000 if seconds > 0 else 0.0  # a third of the cost of round()
