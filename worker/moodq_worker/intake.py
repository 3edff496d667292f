"""From claimed jobs to items ready to batch: read, check, skip what is done, tokenize.

Runs in its own thread, so that Redis and the tokenizer work while the engine does. It claims only while a
queue has room, which keeps the rest of that queue free for other workers.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from redis.exceptions import RedisError

from moodq_config.contracts import ItemLimits, LongText, RequestItem, deadline_at, item_id, parse_item
from moodq_config.errors import BadInput, ErrorCode, MoodqError
from moodq_config.names import result_key
from moodq_config.tasks import TaskSet, detect_lang
from moodq_config.trace_context import trace_id_of
from moodq_worker.connection import passing
from moodq_worker.conversations import Conversations
from moodq_worker.engine import Engine
from moodq_worker.items import Clock, Item, Job
from moodq_worker.memory import MemoryGuard, result_bytes
from moodq_worker.outage import Outage
from moodq_worker.pace import MOST_IN_HAND, Pace
from moodq_worker.pins import Pins
from moodq_worker.result_cache import ResultCache, kind_of
from moodq_worker.rq_claim import Claim
from moodq_worker.rq_job import read_payload
from moodq_worker.rq_worker import BatchWorker

if TYPE_CHECKING:
    from moodq_worker.tracing import Tracing  # needs the extra `otel`

log = logging.getLogger(__name__)

IDLE_WAIT_S = 1.0


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """What is accepted; from the settings."""

    max_items_per_job: int
    max_text_chars: int
    max_text_tokens: int
    max_metadata_bytes: int = 4_096
    long_text: LongText = "refuse"
    log_texts: bool = False
    #: By queue, what the ids of its items must begin with.
    id_prefixes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Rules:
    """What items are read by: the tasks in force, and what they may hold."""

    tasks: TaskSet
    limits: ItemLimits

    @classmethod
    def of(cls, tasks: TaskSet, limits: IntakeLimits) -> Rules:
        items = ItemLimits(
            max_text_chars=limits.max_text_chars,
            max_metadata_bytes=limits.max_metadata_bytes,
            long_text=limits.long_text,
            task_names=frozenset(tasks),
            needs=tasks.needs,
        )
        return cls(tasks, items)


class Intake:
    """Feeds ``accept`` with checked jobs until ``stop``."""

    def __init__(
        self,
        worker: BatchWorker,
        engine: Engine,
        tasks: TaskSet,
        limits: IntakeLimits,
        *,
        accept: Callable[[Job], None],
        in_hand: Callable[[str], int],
        held: Callable[[str], int],
        pace: Pace,
        cache: ResultCache,
        pins: Pins,
        conversations: Conversations,
        memory: MemoryGuard,
        tracing: Tracing | None = None,
        look_again: Callable[[], object] = lambda: None,
    ) -> None:
        self._worker = worker
        self._engine = engine
        self._limits = limits
        self._rules = Rules.of(tasks, limits)
        self._look_again = look_again
        self._accept = accept
        self._in_hand = in_hand
        self._held = held
        self._pace = pace
        self._cache = cache
        self._pins = pins
        self._conversations = conversations
        self._memory = memory
        self._tracing = tracing
        self._stop = threading.Event()
        self._room = threading.Event()
        #: Whether a queue is not asked for work because it has too much in hand; room there must be heard of.
        self._left_out = False
        self._outage = Outage("nothing is claimed")
        self._thread = threading.Thread(target=self._run, name="intake", daemon=True)

    def use_tasks(self, tasks: TaskSet) -> None:
        """Read what is claimed from now on by these definitions. Any thread."""
        self._rules = Rules.of(tasks, self._limits)

    def start(self) -> None:
        self._thread.start()

    def request_stop(self) -> None:
        """Claim nothing more. Does not wait, so a signal handler may call it."""
        self._stop.set()
        self._room.set()

    def stop(self) -> None:
        """Claim nothing more; returns when the last claim has been handed over."""
        self.request_stop()
        self._worker.wake()
        self._thread.join()

    def room_made(self) -> None:
        """Tell a waiting intake that items were finished."""
        self._room.set()
        if self._left_out:
            self._worker.wake()

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._turn()
                self._outage.over()
            except RedisError as error:
                self._stop.wait(self._outage.failed(error))
        try:
            self._worker.tell_draining()
        except RedisError as error:
            log.debug("not told that this worker drains: %s", error)

    def _turn(self) -> None:
        self._room.clear()
        names = self._worker.queue_names()
        queues = [name for name in names if self._has_room(name)]
        self._left_out = len(queues) < len(names)
        if not queues:
            self._room.wait(IDLE_WAIT_S)
        elif self._worker.suspended():
            self._stop.wait(IDLE_WAIT_S)
        else:
            wanted = self._pace.jobs(min(map(self._in_hand, queues)))
            claims = self._worker.claim(min(wanted, *map(self._memory.jobs, queues)), queues)
            if claims:
                self.take(claims)
            elif self._worker.held_back:
                self._room.wait(IDLE_WAIT_S)
            else:
                self._worker.wait_for_work(IDLE_WAIT_S, queues)

    def _has_room(self, queue: str) -> bool:
        return (
            self._in_hand(queue) < self._pace.in_hand
            and self._held(queue) < MOST_IN_HAND
            and self._memory.jobs(queue) > 0
        )

    def take(self, claims: Sequence[Claim]) -> None:
        """Read, check and tokenize ``claims`` and hand each over as a job."""
        jobs = [self._read(claim) for claim in claims]
        if self._tracing is not None:
            self._tracing.begin(jobs)
        self._pace.claimed(len(jobs), sum(len(job.items) for job in jobs))
        self._look_up([item for job in jobs for item in job.items])
        unknown = [item for job in jobs for item in job.items if item.labels_todo or item.generates_todo]
        unknown = [item for item in unknown if item.error is None]
        self._tokenize(unknown)
        self._conversations.encode(unknown, self._engine.encode)
        for job in jobs:
            job.open = len(job.items)
            job.unknown = sum(1 for item in job.items if item.labels_todo or item.generates_todo)
            job.result_bytes = result_bytes(job)
            self._memory.took(job.claim.queue.name, job.result_bytes)
            self._accept(job)

    def _read(self, claim: Claim) -> Job:
        job = Job(claim)
        try:
            if claim.error is not None:
                raise claim.error
            raws = read_payload(claim.job, max_items=self._limits.max_items_per_job)
        except MoodqError as error:
            prefix = self._limits.id_prefixes.get(claim.queue.name, "")
            job.items = [self._item(job, id, error=error) for id in _ids_of(claim, prefix)]
            return job
        parent = claim.job.context.traceparent
        if parent is not None:
            job.trace_id = trace_id_of(parent)
        job.items = [self._parse(job, number, raw, len(raws)) for number, raw in enumerate(raws)]
        if len(job.items) == 1:
            job.trace_id = job.items[0].trace_id
        return job

    def _parse(self, job: Job, number: int, raw: object, count: int) -> Item:
        fallback = job.id if count == 1 else f"{job.id}-{number}"
        if isinstance(raw, dict) and "id" not in raw:
            raw = {**raw, "id": fallback}
        prefix = self._limits.id_prefixes.get(job.claim.queue.name, "")
        id = item_id(raw) or fallback
        try:
            if not id.startswith(prefix):
                # Told under an id of the job's own: the result of that id is somebody else's.
                id = fallback
                raise BadInput(f"field 'id': on this queue it must begin with {prefix!r}")
            rules, request = self._check(raw)
            if request.conversation is not None and not request.conversation.startswith(prefix):
                raise BadInput(f"field 'conversation': on this queue it must begin with {prefix!r}")
        except BadInput as error:
            return self._item(job, id, error=error)
        item = self._item(job, request.id)
        item.request = request
        if request.traceparent is not None:
            item.trace_id = trace_id_of(request.traceparent)
        if self._limits.log_texts:
            log.info("item %s: text %r, metadata %r", item.id, request.text, request.metadata)
        if request.deadline is not None:
            item.deadline = deadline_at(request.deadline)
            if item.over():
                return item
        item.cut_text(self._limits.max_text_chars)
        item.lang = request.lang or detect_lang(item.text)
        item.plan(rules.tasks)
        return item

    def _check(self, raw: object) -> tuple[Rules, RequestItem]:
        """The request, and what it was checked by. Raises ``BadInput``."""
        before = self._rules
        try:
            return before, parse_item(raw, before.limits)
        except BadInput as error:
            if error.code != ErrorCode.UNKNOWN_TASK:
                raise
            self._look_again()  # its sender may have seen a task that was saved a moment ago
            if (now := self._rules) is before:
                raise
        return now, parse_item(raw, now.limits)

    def _item(self, job: Job, id: str, *, error: MoodqError | None = None) -> Item:
        clock = Clock(enqueued_at=job.claim.enqueued_at, claimed_at=job.claim.claimed_at)
        return Item(job, id, queue=job.claim.queue.name, clock=clock, error=error, trace_id=job.trace_id)

    def _look_up(self, items: list[Item]) -> None:
        """In one round trip: an id that already has a finished result is not run again (a second delivery, or
        a resubmission), nor is one that was cancelled, or that failed for good in an earlier attempt of
        its job; an answer that is pinned or in the cache is taken from there, and what was said before in an
        item's conversation is read.

        The jobs are in hand already, so a Redis that is away is waited for. Without an answer they are run:
        the first outcome of an item stands.
        """
        outage = Outage("claimed jobs wait")
        while items:
            try:
                self._ask(items)
                outage.over()
                return
            except RedisError as error:
                if self._stop.is_set() or not passing(error):
                    log.warning("%d items not looked up: %s", len(items), error)
                    return
                self._stop.wait(outage.failed(error))

    def _ask(self, items: list[Item]) -> None:
        asked = [(item, task, key) for item in items for task, key in self._cache_keys(item)]
        with self._worker.connection.pipeline(transaction=False) as pipe:
            pipe.mget([result_key(item.id) for item in items])
            self._pins.ask(pipe)
            if asked:
                self._cache.ask(pipe, [key for _, _, key in asked])
            if talking := self._conversations.of(items):
                self._conversations.ask(pipe, talking)
            # A conversation may be of a type that no command of ours finds there.
            replies = pipe.execute(raise_on_error=not talking)
        others = len(replies) - self._conversations.replies(talking)
        stored, revision, *answers = _sound(replies[:others])
        self._pins.refresh(revision)
        for item in items:
            if item.error is None:
                for task, scores in self._pins.answers(item.text, item.labels_todo, item.tasks):
                    item.know(task, scores, "pinned")
                    item.plan_again()
        if asked:
            for (item, task, _), answer in zip(asked, self._cache.found(*answers), strict=True):
                if (
                    answer is not None
                    and task not in item.cached
                    and self._cache.fits(item.tasks[task], answer)
                ):
                    item.know(task, answer, kind_of(item.tasks[task]))
                    item.plan_again()
        self._conversations.take(talking, replies[others:])
        for item, value in zip(items, stored, strict=True):
            outcome, message = ("", "") if value is None else _outcome(value)
            if outcome == "done":
                item.job.items.remove(item)
                item.job.skipped += 1
            elif outcome == ErrorCode.CANCELLED:
                item.cancel()
            elif outcome and item.job.claim.attempt > 1:
                item.stand(outcome, message)

    def _cache_keys(self, item: Item) -> Iterable[tuple[str, bytes]]:
        if item.request is not None and item.error is None:
            # In a conversation an answer depends on more than the text.
            texts = [] if item.request.conversation else item.generates_todo
            for task in [*item.labels_todo, *texts]:
                key = self._cache.key(task, item.lang, item.request.text, item.choices(task), of=item.tasks)
                if key is not None:
                    item.cache_keys[task] = key
        return list(item.cache_keys.items())

    def _tokenize(self, items: list[Item]) -> None:
        texts = [item.request.text for item in items if item.request is not None]
        for item, tokens in zip(items, self._engine.encode(texts), strict=True):
            item.tokens = tokens
            if len(tokens) > self._limits.max_text_tokens:
                asked = item.request.long_text if item.request else None
                if (asked or self._limits.long_text) == "truncate":
                    item.cut_tokens(self._limits.max_text_tokens)
                else:
                    item.error = BadInput(
                        f"text has {len(tokens)} tokens, the limit is {self._limits.max_text_tokens}; "
                        "shorten or split it, have it cut (MOODQ_LONG_TEXT=truncate), or raise "
                        "MOODQ_MAX_TEXT_TOKENS",
                        code=ErrorCode.TEXT_TOO_LONG,
                    )
        for item in items:
            if item.error is None and item.request is not None and item.request.documents:
                item.documents = self._engine.encode(item.request.documents)
                item.error = self._too_long(item.documents)

    def _too_long(self, documents: Sequence[Sequence[int]]) -> BadInput | None:
        limit = self._limits.max_text_tokens
        for number, tokens in enumerate(documents):
            if len(tokens) > limit:
                return BadInput(
                    f"field 'documents.{number}' has {len(tokens)} tokens, the limit is {limit}; send "
                    "passages of it, or raise MOODQ_MAX_TEXT_TOKENS",
                    code=ErrorCode.TEXT_TOO_LONG,
                )
        return None


def _sound(replies: list[Any]) -> list[Any]:
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def _ids_of(claim: Claim, prefix: str) -> list[str]:
    """Whom to tell that a whole job is refused: its items as far as their ids can be read, else the job."""
    try:
        ids = [item_id(raw) for raw in claim.job.args[0]["items"]]
    except Exception:  # noqa: BLE001 - the job is refused already; nothing about its shape is known
        ids = []
    return [id for id in ids if id is not None and id.startswith(prefix)] or [str(claim.job.id)]


def _outcome(value: bytes | str) -> tuple[str, str]:
    """``done``, or the code of what failed and its message."""
    try:
        stored = json.loads(value)
        if stored.get("status") == "done":
            return "done", ""
        return str(stored["error"]["code"]), str(stored["error"]["message"])
    except (ValueError, AttributeError, LookupError, TypeError, RecursionError):
        return "", ""
