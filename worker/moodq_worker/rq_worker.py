"""The worker in RQ's eyes: claim, lease, finish, take over. With ``rq_hooks``, ``rq_job`` and ``rq_scripts``
the only code that touches RQ's internals.

To RQ it is one worker that holds many executions; there is no work-horse and no function to call. ``intake``
claims through it, ``heartbeat`` keeps leases and takes over the jobs of dead workers, ``delivery`` finishes
jobs in RQ's registries. Every method may raise ``redis.RedisError`` and can then be called again.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast
from uuid import uuid4

from redis import Redis
from redis.exceptions import RedisError
from rq import worker_registration
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.suspension import is_suspended
from rq.utils import as_text, now, utcformat
from rq.worker.base import WorkerStatus

from moodq_config.conversations import ConversationLimits
from moodq_config.errors import BadInput, ErrorCode, MoodqError
from moodq_worker.connection import passing
from moodq_worker.doorbell import Doorbell
from moodq_worker.items import Item
from moodq_worker.rq_claim import Claim, TakenOver, fresh_ids
from moodq_worker.rq_failed import split_off
from moodq_worker.rq_finish import (
    JOBS_AT_ONCE,
    MAX_EVENTS,
    RESULTS_AT_ONCE,
    End,
    FinishScript,
    WrittenResult,
    needs_rq,
)
from moodq_worker.rq_hooks import HookedWorker
from moodq_worker.rq_job import JobLimits, MoodqJob, SafeJSONSerializer
from moodq_worker.rq_schedule import DueJobs
from moodq_worker.rq_scripts import Scripts, hash_of
from moodq_worker.rq_unheard import Unheard

log = logging.getLogger(__name__)

#: Abandoned executions looked at in one ``take_over``.
TAKE_OVER_LIMIT = 500
#: Bytes of jobs' data after which a claim takes no more: some hundred texts in long jobs, so that what one
#: worker takes at once stays a fair share.
CLAIM_BYTES = 48 * 1024
#: Seconds between two clean-ups of RQ's registries of ended jobs.
CLEAN_UP_EVERY_S = 60.0


class NotWritten(RedisError):
    """RQ's code logged what Redis did not take, and went on."""


class BatchWorker(HookedWorker):
    """An RQ worker that holds many executions at once.

    ``lease_s``: seconds after the last ``beat`` at which another worker takes the jobs in hand over.
    ``id_prefixes``: by queue, what the ids of its jobs begin with; jobs of other ids are left alone.
    """

    def __init__(
        self,
        queues: Sequence[str],
        *,
        connection: Redis,
        name: str,
        lease_s: float,
        max_attempts: int,
        result_ttl_s: int,
        failure_ttl_s: int,
        limits: JobLimits | None = None,
        max_events: int = MAX_EVENTS,
        id_prefixes: Mapping[str, str] | None = None,
        conversations: ConversationLimits | None = None,
    ) -> None:
        super().__init__(
            list(queues),
            name=name,
            connection=connection,
            default_result_ttl=result_ttl_s,
            worker_ttl=max(30, math.ceil(lease_s * 3)),
            job_class=MoodqJob,
            serializer=SafeJSONSerializer,
            log_job_description=False,
        )
        self.lease_s = lease_s
        self._max_attempts = max_attempts
        self._failure_ttl_s = failure_ttl_s
        self._id_prefixes = id_prefixes or {}
        self._limits = limits or JobLimits()
        self._scripts = Scripts(
            self.connection, lease_s=lease_s, max_attempts=max_attempts, failure_ttl_s=failure_ttl_s
        )
        self._finish = FinishScript(
            self.connection,
            self._scripts.conf,
            result_ttl_s=result_ttl_s,
            max_events=max_events,
            conversations=conversations,
        )
        self._doorbell = Doorbell(self.connection, {queue.name: queue.key for queue in self.queues})
        self._due = DueJobs(self.connection, self.queues, name)
        self._life = threading.Lock()
        self._unheard = Unheard(
            self.connection, self._scripts, self.queues, worker=self.name, key=self.executions_key
        )
        self._clean_up_at = 0.0
        self._alone = ""  # id of the last execution that was claimed alone
        self.held_back = False

    # -- life ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Register with RQ and listen to its commands. Raises ``ConfigError`` when the name is in use."""
        self.register()
        self._unheard.start()
        self._doorbell.start()

    def stop(self) -> None:
        """Leave RQ's worker registry. Jobs still in hand stay leased until their lease ends."""
        with self._life:
            self._doorbell.close()
            self.unregister()

    def beat(self) -> None:
        """Renew every lease in hand, and this worker's entry, which is made again if it has expired."""
        with self._life:
            if self._stopping.is_set():
                return
            self._renew(list(self.executions.values()))
            self._unheard.put_back(list(self.executions.values()))
            self.last_heartbeat = now()
            state = WorkerStatus.BUSY if self.executions else self.get_state()
            with self.connection.pipeline() as pipeline:
                pipeline.hset(self.key, mapping={**self.serialize(), "state": state})
                worker_registration.register(self, pipeline)
                self.heartbeat(pipeline=pipeline)
                pipeline.execute()

    def suspended(self) -> bool:
        """Whether ``rq suspend`` asks workers to claim nothing; shown in this worker's state."""
        suspended = bool(is_suspended(self.connection))
        if suspended != (self.get_state() == WorkerStatus.SUSPENDED):
            self.set_state(WorkerStatus.SUSPENDED if suspended else self._free_state())
        return suspended

    def wait_for_work(self, timeout_s: float, queues: Sequence[str] | None = None) -> bool:
        """Block until one of ``queues`` (default: all) has a job. False on time-out, ``wake`` or ``stop``.
        Takes nothing: call ``claim`` next."""
        return self._doorbell.wait(timeout_s, self.queue_names() if queues is None else queues)

    def wake(self) -> None:
        """End ``wait_for_work`` from another thread."""
        self._doorbell.wake()

    # -- jobs ---------------------------------------------------------------------------------------------

    def claim(self, max_jobs: int, queue_order: Sequence[str]) -> list[Claim]:
        """Take up to ``max_jobs`` from the heads of the queues, in this order, and lease them. Atomic.

        A job on its last attempt is taken alone, by a worker with nothing else in hand; ``held_back`` says
        that one waits for that, or is in hand.
        """
        self.held_back = self._alone in self.executions
        if max_jobs < 1 or not queue_order or self.held_back:
            return []
        by_name = {queue.name: queue for queue in self.queues}
        queues = [by_name[name] for name in queue_order]
        pattern = Execution("", "", self.connection, worker_name=self.name)
        started = utcformat(pattern.created_at)
        rows = self._scripts.claim(
            [key for queue in queues for key in (queue.key, queue.started_job_registry.key)]
            + [self.key, self.executions_key],
            fresh_ids(max_jobs),
            execution=pattern,
            job_fields={
                "status": JobStatus.STARTED.value,
                "started_at": started,
                "last_heartbeat": started,
                "worker_name": self.name,
            },
            busy=WorkerStatus.BUSY.value,
            enough_bytes=CLAIM_BYTES,
            empty_hands=not self.executions,
            prefixes=[self._id_prefixes.get(name, "") for name in queue_order],
        )
        if rows == [[-1]]:
            self.held_back = True
            return []
        if rows:
            self._state = WorkerStatus.BUSY
        claims = [self._in_hand(queues[index], *row) for index, *row in rows]
        if claims and 1 < self._max_attempts <= claims[0].attempt:
            self._alone = claims[0].execution.id
        return claims

    def finish(
        self, results: Sequence[WrittenResult], jobs: Sequence[tuple[Claim, dict[str, Any]]]
    ) -> list[bool]:
        """Write results, then finish jobs with their return values: one round trip for a batch. Says of each
        job whether it was still this worker's; the end of one that was not belongs to someone else, and none
        of its results is written."""
        for start in range(0, len(results) - RESULTS_AT_ONCE, RESULTS_AT_ONCE):
            self._finish(self, results[start : start + RESULTS_AT_ONCE], [], now(), 0)
        written = (len(results) - 1) // RESULTS_AT_ONCE * RESULTS_AT_ONCE if results else 0
        last = results[written:]
        ends: list[End] = []
        for start in range(0, max(1, len(jobs)), JOBS_AT_ONCE):
            some = jobs[start : start + JOBS_AT_ONCE]
            quick = [(claim, value) for claim, value in some if not needs_rq(claim.job)]
            found = iter(self._finish(self, last, quick, now(), self.default_result_ttl))
            ends += [End.NEEDS_RQ if needs_rq(claim.job) else next(found) for claim, _ in some]
            last = []
        ours: list[bool] = []
        for (claim, value), end in zip(jobs, ends, strict=True):
            if end is End.NEEDS_RQ:
                ours.append(self._still_ours(claim))
                if ours[-1]:
                    finalize = partial(self._finalize_success, claim.job, claim.queue, claim.execution, value)
                    self._by_rq(claim.job, finalize)
            else:
                ours.append(end is End.FINISHED)
                self.executions.pop(claim.execution.id, None)
            if end is End.GONE:
                log.warning("job %s is no longer this worker's; dropped", claim.job.id)
        return ours

    def fail(self, claim: Claim, error: MoodqError, *, retry: bool, backoff_s: float = 0.0) -> bool:
        """Finish the job as RQ does after a function raised; the registry shows ``code: message``.

        With ``retry`` a job that has RQ retries left (``claim.job.should_retry``) is enqueued again, after
        ``backoff_s`` or, where it brings some, RQ's intervals. False if it is no longer this worker's.
        """
        if not self._still_ours(claim):
            return False
        job, retries_left = claim.job, claim.job.retries_left
        job.backoff_s, job.failure, job.attempt = backoff_s, error, claim.attempt
        if job.should_retry and not retry:
            job.retries_left = 0
        if job.failure_ttl is None:
            job.failure_ttl = self._failure_ttl_s
        job._status = JobStatus.FAILED
        self.handle_execution_ended(job, claim.queue, 0)
        self.handle_exception(job, type(error), error, None)
        self.handle_job_failure(job, claim.queue, exc_string=str(error), execution=claim.execution)
        member = claim.execution.composite_key
        if self.connection.zscore(claim.queue.started_job_registry.key, member) is not None:
            # RQ logs what Redis did not take, and goes on.
            job.retries_left = retries_left
            self.executions[claim.execution.id] = claim.execution
            raise NotWritten(f"the end of job {job.id} was not written")
        return True

    def abandon(self, claim: Claim) -> None:
        """Renew the lease of a job no longer: when it ends, another worker takes it over."""
        self.executions.pop(claim.execution.id, None)

    def split_off(self, claim: Claim, item: Item, error: MoodqError) -> bool:
        """Show a failed item of a job that otherwise went well in the failed registry, as a job of its own.
        False if the job is no longer this worker's, or the item another's."""
        return self._still_ours(claim) and split_off(self, claim, item, error, self._failure_ttl_s)

    def move_due(self) -> int:
        """Put scheduled jobs that are due into their queues; returns how many."""
        return self._due.move()

    def put_back(self, claims: Sequence[Claim]) -> int:
        """Give unfinished jobs back to the front of their queues, the attempt uncounted; returns how many.

        A job that was given up stays leased instead, for the next worker to fail.
        """
        going = [claim for claim in reversed(claims) if not _given_up(claim)]
        done = self._scripts.put_back(
            [key for claim in going for key in (claim.queue.key, claim.queue.started_job_registry.key)],
            [part for claim in going for part in (claim.job.id, claim.execution.id)],
            worker=self.name,
        )
        for claim in going:
            self.executions.pop(claim.execution.id, None)
        return done

    def take_over(self) -> TakenOver:
        """Put jobs whose lease has ended back in front of their queues, or give them up after
        ``max_attempts``. Also removes expired entries from the registries, once a minute."""
        requeued: dict[str, int] = {}
        given_up = []
        for queue in self.queues:
            count, rows = self._scripts.take_over(
                [queue.key, queue.started_job_registry.key], limit=TAKE_OVER_LIMIT
            )
            if count:
                requeued[queue.name] = count
            for row in rows:
                claim = self._in_hand(queue, *row)
                claim.execution.worker_name = claim.job.worker_name or ""
                claim.error = BadInput(
                    f"the job was started {claim.attempt} times and its worker died each time; "
                    f"the limit is {self._max_attempts}, send smaller jobs or raise MOODQ_MAX_ATTEMPTS",
                    code=ErrorCode.MAX_ATTEMPTS,
                )
                given_up.append(claim)
        if time.monotonic() >= self._clean_up_at:
            self._clean_up_at = time.monotonic() + CLEAN_UP_EVERY_S
            self.clean_registries()
        return TakenOver(requeued, given_up)

    # -- helpers ------------------------------------------------------------------------------------------

    def _in_hand(
        self, queue: Queue, raw_id: bytes, execution_id: bytes, attempt: int, flat: list[bytes]
    ) -> Claim:
        claimed_at = time.time()
        job = MoodqJob(raw_id.decode("utf-8", "backslashreplace"), self.connection, limits=self._limits)
        if flat:
            job.restore(hash_of(flat))
        else:
            job.data = b""  # RQ would build it, of a function that is not there
        # The registries of the queue it was in are the ones to clean, whatever the hash says.
        job.origin = queue.name
        execution = Execution(as_text(execution_id) or uuid4().hex, job.id, self.connection, self.name)
        execution._job = job
        error: MoodqError | None = job.refusal
        if execution_id:
            self.executions[execution.id] = execution
        else:
            error = BadInput("the job's id is unusable; RQ allows letters, digits, '_' and '-'")
        enqueued_at = (job.enqueued_at or job.created_at).timestamp()
        return Claim(job, queue, execution, attempt, claimed_at, min(enqueued_at, claimed_at), error)

    def _renew(self, executions: Sequence[Execution]) -> set[str]:
        if not executions:
            return set()
        moment = now()
        registries = [cast("Job", each._job).started_job_registry.key for each in executions]
        ids = [part for each in executions for part in (each.job_id, each.id)]
        held = self._scripts.renew(registries, ids, timestamp=moment.timestamp(), date=utcformat(moment))
        return {as_text(id) for id in held}

    def _still_ours(self, claim: Claim) -> bool:
        """Renew the lease for the time finishing takes. A job that was taken over, cancelled or deleted is
        dropped: its end belongs to someone else."""
        if self._renew([claim.execution]):
            return True
        log.warning("job %s is no longer this worker's; dropped", claim.job.id)
        self.executions.pop(claim.execution.id, None)
        self.connection.srem(self.executions_key, claim.execution.composite_key)
        return False

    def _by_rq(self, job: Job, finish: Callable[[], object]) -> None:
        """RQ's own code, over dependents and repeats that anyone may have written: what it cannot deal with
        is dropped, and the job ends without. Otherwise one such job would hold up all results for ever."""
        try:
            finish()
        except Exception as error:  # RQ over a stranger's data
            if isinstance(error, RedisError) and passing(error):
                raise
            log.warning("job %s ends without its dependents and repeats: %s", job.id, type(error).__name__)
            self.connection.delete(job.dependents_key)
            job.repeats_left = None
            finish()

    def _free_state(self) -> WorkerStatus:
        return WorkerStatus.BUSY if self.executions else WorkerStatus.IDLE


def _given_up(claim: Claim) -> bool:
    return claim.error is not None and claim.error.code == ErrorCode.MAX_ATTEMPTS
