"""The sync client: submit texts, wait for results. ``async_client`` is its peer; both share ``jobs`` (what is
enqueued) and ``waiting`` (what a wait remembers)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from redis.exceptions import NoPermissionError, OutOfMemoryError, RedisError
from rq.worker_registration import REDIS_WORKER_KEYS

from moodq_config.contracts import RequestItem, Result
from moodq_config.names import INTERACTIVE, events_key, result_key
from moodq_config.settings import Settings, server_url
from moodq_producer.cancelling import CANCEL_SCRIPT, cancel_args, cancel_keys, was_cancelled
from moodq_producer.connection import AWAY, block_s, close, connect, redis_errors, unreachable
from moodq_producer.conversations import Conversations
from moodq_producer.enqueue import ENQUEUE_SCRIPT, Admission, OnFull, QueuedJob, no_memory
from moodq_producer.following import Event, Following
from moodq_producer.jobs import Deadline, JobMaker, Source, chunks, deadline_text, settings_from
from moodq_producer.tickets import Ticket
from moodq_producer.tracing import sending
from moodq_producer.waiting import Patience, Waiting, joins, parse_result, wait_timeout

T = TypeVar("T")

DEFAULT_TASKS = ("sentiment",)
#: Jobs that travel to Redis in one pipeline; with the chunk it bounds what ``submit_many`` holds in memory.
PIPELINE_JOBS = 20
#: Items whose keys one command deletes.
FORGOTTEN_AT_ONCE = 500


class Client:
    """Submits texts and waits for their results. Safe to share between threads; close it, or use ``with``.

    ``settings`` may be ``Settings``, a Redis URL, or nothing: then the environment decides.
    Raises ``ConfigError``, and ``Unavailable`` when Redis does not answer.
    """

    def __init__(self, settings: Settings | str | None = None) -> None:
        self.settings = settings_from(settings)
        self._maker = JobMaker(self.settings)
        self._url = server_url(self.settings)
        self._redis = connect(self.settings)
        self._script = self._redis.register_script(ENQUEUE_SCRIPT)
        self._cancel_script = self._redis.register_script(CANCEL_SCRIPT)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        close(self._redis)

    def submit(
        self,
        text: str,
        tasks: Sequence[str] | str = DEFAULT_TASKS,
        *,
        id: str | None = None,
        queue: str = INTERACTIVE,
        lang: str | None = None,
        conversation: str | None = None,
        metadata: Mapping[str, Any] | None = None,
        deadline: Deadline = None,
        labels: Sequence[str] | None = None,
        documents: Sequence[str] | None = None,
        traceparent: str | None = None,
        request_id: str | None = None,
        on_full: OnFull | None = None,
        full_timeout: float | None = None,
    ) -> Ticket:
        """Enqueue one text.

        ``id`` is the idempotency key: as long as a job or a result of that id is kept, another ``submit``
        adds no job and its ticket leads to the same result. After ``deadline``, a moment or seconds from now,
        the item is not started: it fails with ``deadline_exceeded``. ``labels`` are what a task as ``topic``
        chooses among; ``documents`` what one as ``rerank`` ranks, with ``text`` as the query.
        ``traceparent`` is the W3C trace context to go on with, where that of the OpenTelemetry span around
        the call is not meant; ``request_id`` is told in the worker's log.

        A Redis that is away is waited for, ``MOODQ_AWAY_TIMEOUT_S`` at most. Raises ``BadInput``;
        ``Unavailable``; and ``QueueFull``, also as ``RateLimited``: at once, or with ``on_full`` ``"wait"``
        after ``full_timeout`` seconds (None: never). Without ``on_full`` the settings say both.
        """
        self._maker.check_queue(queue)
        item = self._maker.item(
            text,
            tasks,
            id=id,
            lang=lang,
            conversation=conversation,
            metadata=None if metadata is None else dict(metadata),
            deadline=deadline_text(deadline),
            labels=labels,
            documents=documents,
            traceparent=traceparent,
        )
        with sending(queue, [[item]], request_id) as sent:
            jobs = [self._maker.job(items, queue, self._redis, context) for items, context in sent]
            self._enqueue(jobs, on_full, full_timeout)
        return Ticket(item.id, self)

    def check(
        self,
        text: str,
        tasks: Sequence[str] | str = DEFAULT_TASKS,
        *,
        id: str | None = None,
        lang: str | None = None,
        deadline: Deadline = None,
        labels: Sequence[str] | None = None,
        documents: Sequence[str] | None = None,
    ) -> RequestItem:
        """The item that ``submit`` would send, without sending it. Raises ``BadInput``."""
        return self._maker.item(
            text,
            tasks,
            id=id,
            lang=lang,
            deadline=deadline_text(deadline),
            labels=labels,
            documents=documents,
        )

    def item(self, source: Source, tasks: Sequence[str] | str = DEFAULT_TASKS) -> RequestItem:
        """The item that ``source`` means, checked; ``tasks`` where it names none. Raises ``BadInput``."""
        return self._maker.item(source, tasks)

    def submit_items(
        self,
        items: Sequence[RequestItem],
        *,
        queue: str = INTERACTIVE,
        traceparent: str | None = None,
        request_id: str | None = None,
        on_full: OnFull | None = None,
        full_timeout: float | None = None,
    ) -> str:
        """Enqueue items that ``item`` gave as one job; returns its id. ``traceparent`` is the
        context of those that bring none. Raises what ``submit`` raises."""
        self._maker.check_queue(queue)
        with sending(queue, [list(items)], request_id, traceparent) as [(sent, context)]:
            job = self._maker.job(sent, queue, self._redis, context)
            self._enqueue([job], on_full, full_timeout)
        return job.id

    def ticket(self, id: str) -> Ticket:
        """The ticket of an item that was sent before, here or elsewhere."""
        return Ticket(id, self)

    def submit_many(
        self,
        sources: Iterable[Source],
        tasks: Sequence[str] | str = DEFAULT_TASKS,
        *,
        queue: str = "bulk",
        chunk: int = 100,
        lang: str | None = None,
        on_full: OnFull | None = None,
        full_timeout: float | None = None,
    ) -> Iterator[Ticket]:
        """Enqueue texts (or request items, or mappings of their fields), ``chunk`` of them per job.

        Lazy: it reads ``sources`` and enqueues as its tickets are taken, in bounded memory, so take them
        all. ``BadInput`` names the item by its number, from 0 on; what came before its pipeline of jobs is
        enqueued by then. ``tasks`` and ``lang`` are for the sources that do not name their own.
        """
        self._maker.check_queue(queue)
        size = self._maker.chunk_size(chunk)
        items = self._maker.numbered_items(sources, tasks, lang)
        pipelines = chunks(chunks(items, size), PIPELINE_JOBS)
        return self._submit_chunks(pipelines, queue, on_full, full_timeout)

    def _submit_chunks(
        self, pipelines: Iterable[Any], queue: str, on_full: OnFull | None, full_timeout: float | None
    ) -> Iterator[Ticket]:
        for pipeline in pipelines:
            with sending(queue, pipeline) as sent:
                jobs = [self._maker.job(items, queue, self._redis, context) for items, context in sent]
                self._enqueue(jobs, on_full, full_timeout)
            yield from (Ticket(id, self) for job in jobs for id in job.item_ids)

    def result(self, id: str) -> Result | None:
        """The result of an item if it is there now; None before it is done and after its TTL."""
        with self._errors():
            value = self._redis.get(result_key(id))
        return None if value is None else parse_result(value, id)

    def forget(self, ids: Sequence[str]) -> None:
        """Delete results, and the events of their items, that need not be kept until their TTL ends. They are
        kept where the server's rules do not let this user delete them."""
        with self._errors(), suppress(NoPermissionError), self._redis.pipeline(transaction=False) as pipe:
            for start in range(0, len(ids), FORGOTTEN_AT_ONCE):
                some = ids[start : start + FORGOTTEN_AT_ONCE]
                pipe.unlink(*(key for id in some for key in (result_key(id), events_key(id))))
            pipe.execute()

    def wait(
        self, ids: Iterable[str], timeout: float | None = None, *, idle_timeout: float | None = None
    ) -> Iterator[Result]:
        """Results as they come, each within a few ms of its writing, over one connection.

        ``ids`` may be endless: it is read as results come. Ends after the last result. Raises
        ``WaitTimeout`` after ``timeout`` seconds in all or ``idle_timeout`` seconds without a result.
        A Redis that is away for a short while is waited for.
        """
        source = iter(ids)
        waiting, patience = Waiting(), Patience(self.settings.away_timeout_s, timeout, idle_timeout)
        while True:
            waiting.add(islice(source, waiting.room))
            if not waiting.pending:
                return
            results = self._patiently(partial(self._read, waiting, patience), patience)
            patience.answered(results=bool(results))
            yield from results
            if not results and not waiting.fresh and patience.left() == 0.0:
                raise wait_timeout(waiting.pending, patience.waited_s, self.workers_alive())

    def as_completed(
        self,
        tickets: Iterable[Ticket],
        timeout: float | None = None,
        *,
        idle_timeout: float | None = None,
    ) -> Iterator[tuple[Ticket, Result]]:
        """Each ticket with its result, as the results come; else as ``wait``. ``tickets`` is read as results
        come, so what ``submit_many`` gives may be endless: texts are sent, answered and given in bounded
        memory."""
        under_way: dict[str, list[Ticket]] = {}
        ids = (ticket.id for ticket in tickets if joins(ticket, under_way))
        for result in self.wait(ids, timeout, idle_timeout=idle_timeout):
            yield from ((ticket, result) for ticket in under_way.pop(result.id))

    def stream(self, id: str, timeout: float | None = None) -> Iterator[Event]:
        """What happens to an item, as it happens: its labels, its reply's text in pieces, its result last.

        Starts at the beginning, however late it is called. Raises ``WaitTimeout`` after ``timeout`` seconds
        in all. Items of jobs with several give only their result.
        """
        following, patience = Following(id), Patience(self.settings.away_timeout_s, timeout)
        while not following.ended:
            events = self._patiently(partial(self._read_events, following, id, patience), patience)
            patience.answered(results=bool(events))
            yield from events
            if not events and patience.left() == 0.0:
                raise wait_timeout([id], patience.waited_s, self.workers_alive())

    def cancel(self, id: str) -> bool:
        """Let an item end as failed with the code ``cancelled``, at once: who waits for it is told, it is not
        started any more, and a reply that is being written stops. False when it has ended otherwise. An id
        that is cancelled before it is sent is not run either. Raises ``BadInput`` and ``Unavailable``."""
        args = cancel_args(id, self.settings)
        with self._errors():
            before: Any = self._cancel_script(keys=cancel_keys(id), args=args)
        return was_cancelled(parse_result(before, id) if before else None)

    @property
    def conversations(self) -> Conversations:
        """Conversations as people see them, over this client's connection."""
        return Conversations(self._redis, self.settings)

    def workers_alive(self) -> int:
        """How many workers have a living heartbeat."""
        with self._errors():
            keys = list(self._redis.smembers(REDIS_WORKER_KEYS))
            return int(self._redis.exists(*keys)) if keys else 0

    def _read(self, waiting: Waiting, patience: Patience) -> list[Result]:
        """One command: GET what is new, else block for the next event."""
        if waiting.fresh:
            return waiting.fetched(self._redis.mget(waiting.keys()))
        block = patience.block_ms(block_s(self._redis))
        return waiting.arrived(self._redis.xread(waiting.streams, block=block))

    def _read_events(self, following: Following, id: str, patience: Patience) -> list[Event]:
        if following.at_start:
            if found := following.arrived(self._redis.xread(following.streams)):
                return found
            if (value := self._redis.get(result_key(id))) is not None:
                # Its events may have come just now, between the two.
                return following.arrived(self._redis.xread(following.streams)) or following.fetched(value)
        block = patience.block_ms(block_s(self._redis))
        return following.arrived(self._redis.xread(following.streams, block=block))

    def _enqueue(self, jobs: list[QueuedJob], on_full: OnFull | None, full_timeout: float | None) -> None:
        admission = Admission(self._maker.gate, jobs, on_full, full_timeout)
        while batch := admission.next():
            # What was sent already, and only the reply was lost, is known to the script.
            replies = self._patiently(partial(self._send, batch), Patience(self.settings.away_timeout_s))
            if pause_s := admission.answered(replies):
                time.sleep(pause_s)

    def _send(self, jobs: list[QueuedJob]) -> list[Any]:
        """The script's reply to each job."""
        args = self._maker.gate.script_args
        try:
            if len(jobs) == 1:
                return [self._script(keys=jobs[0].keys, args=args(jobs[0]))]
            with self._redis.pipeline(transaction=False) as pipe:
                for job in jobs:
                    self._script(keys=job.keys, args=args(job), client=pipe)
                return pipe.execute()
        except OutOfMemoryError:
            found: Any = self._redis.info("memory")
            return [no_memory(found)] * len(jobs)

    def _patiently(self, call: Callable[[], T], patience: Patience) -> T:
        """What ``call`` gives once Redis is there. Raises ``Unavailable``."""
        while True:
            try:
                return call()
            except AWAY as error:
                time.sleep(patience.away(unreachable(self._url, error)))
            except RedisError as error:
                raise unreachable(self._url, error) from error

    def _errors(self) -> AbstractContextManager[None]:
        return redis_errors(self._url)
