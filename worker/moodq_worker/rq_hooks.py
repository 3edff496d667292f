"""RQ's ``BaseWorker`` with the parts replaced that do not suit a batch: what it calls back, logs and obeys.

Below ``rq_worker``, which adds claiming and finishing. Nothing here, or in the methods kept from RQ, imports
a name found in Redis.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
from collections.abc import Callable
from typing import Any, NoReturn, cast

from redis.client import Pipeline, PubSub, PubSubWorkerThread
from rq import worker_registration
from rq.command import parse_payload
from rq.executions import Execution
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.utils import as_text, now, utcparse
from rq.worker.base import BaseWorker, WorkerStatus

from moodq_config.errors import ConfigError, MoodqError
from moodq_config.names import ATTEMPTS_FIELD, CANCEL_CHANNEL, FAILURE_FIELD, TAKEOVER_CHANNEL
from moodq_worker.rq_failed import note_failure
from moodq_worker.rq_job import MoodqJob
from moodq_worker.rq_scripts import lease_ttl

log = logging.getLogger(__name__)

#: Seconds the thread for RQ's commands waits before it tries the connection again.
COMMAND_RETRY_S = 2.0
RQ_LOGGERS = ("rq.worker", "rq.job", "rq.queue", "rq.registry")


class HookedWorker(BaseWorker):
    """Called from another thread: ``on_shutdown`` when RQ's ``shutdown`` command arrives, ``on_stop_job``
    with the job's id for ``stop-job``, ``on_cancel`` with the id of an item that somebody cancelled,
    ``on_takeover`` with that of a conversation in which a person answers from now on."""

    log_result_lifespan = False
    job_class = MoodqJob
    on_shutdown: Callable[[], None] | None = None
    on_stop_job: Callable[[str], None] | None = None
    on_cancel: Callable[[str], None] | None = None
    on_takeover: Callable[[str], None] | None = None
    lease_s: float = 30.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._stopping = threading.Event()
        self._commands: PubSubWorkerThread | None = None

    def register(self) -> None:
        """Enter RQ's worker registry and listen to its commands; in place of RQ's ``bootstrap``, which also
        installs log handlers. Raises ``ConfigError`` when a living worker has the name."""
        level = logging.DEBUG if log.isEnabledFor(logging.DEBUG) else logging.WARNING
        for name in RQ_LOGGERS:
            logging.getLogger(name).setLevel(level)
        self._bury_namesake()
        try:
            cast("Any", self).register_birth()
        except ValueError as error:
            raise self._name_in_use() from error
        self.subscribe()
        self.set_state(WorkerStatus.IDLE)

    def tell_draining(self) -> None:
        """Note, as RQ's worker does, that this one takes nothing more; shown by ``moodq stats``."""
        self._shutdown_requested_date = now()
        cast("Any", self).set_shutdown_requested_date()

    def unregister(self) -> None:
        """Leave RQ's worker registry."""
        self._stopping.set()
        self.unsubscribe()
        cast("Any", self).register_death()

    def _bury_namesake(self) -> None:
        """Remove the entry of a dead worker of this name: RQ would refuse the name until it expires."""
        entry = {as_text(name): as_text(value) for name, value in self.connection.hgetall(self.key).items()}
        if not entry or "death" in entry:
            return
        try:
            beat = entry.get("last_heartbeat")
            age_s = (now() - utcparse(beat)).total_seconds() if beat else math.inf
            ended = entry.get("hostname") == socket.gethostname() and not _alive(int(entry.get("pid") or 0))
        except ValueError:
            age_s, ended = math.inf, True  # no worker wrote this
        if age_s < self.lease_s and not ended:
            raise self._name_in_use()
        log.warning("a worker named %s ended without a word; taking its place", self.name)
        self.connection.delete(self.key)

    def _name_in_use(self) -> ConfigError:
        return ConfigError(
            f"a worker named {self.name!r} is alive; set MOODQ_WORKER_NAME to another name, or wait "
            f"{self.lease_s:.0f} s if it has just died"
        )

    def get_heartbeat_ttl(self, job: Job, working_time: float = 0.0) -> int:
        return lease_ttl(self.lease_s)

    def cleanup_execution(self, job: Job, pipeline: Pipeline, execution: Execution | None = None) -> None:
        """RQ's, inside its closing transaction; a job that has ended starts counting attempts anew."""
        super().cleanup_execution(job, pipeline, execution)
        retried = job.get_status(refresh=False) == JobStatus.FAILED and job.should_retry
        if not retried:
            pipeline.hdel(job.key, ATTEMPTS_FIELD)
            if isinstance(job, MoodqJob) and job.failure is not None:
                note_failure(pipeline, job, job.failure, job.attempt)
            else:
                pipeline.hdel(job.key, FAILURE_FIELD)
        if not self.executions:
            self.set_state(WorkerStatus.IDLE, pipeline=pipeline)

    def handle_execution_ended(self, job: Job, queue: Queue, heartbeat_ttl: int) -> None:
        job.ended_at = job.last_heartbeat = now()

    def handle_exception(self, job: Job, *exc_info: Any) -> None:
        """One line with the code; RQ's own logs the arguments, and so the text."""
        error = exc_info[1]
        log.warning("job %s failed: %s", job.id, error.code if isinstance(error, MoodqError) else exc_info[0])

    def clean_registries(self) -> None:
        """Drop expired entries, by the server's clock: this worker's may be wrong. RQ's own would also judge
        started jobs, by importing their callbacks."""
        clock: Any = self.connection.time()
        for queue in self.queues:
            queue.finished_job_registry.cleanup(clock[0])
            queue.failed_job_registry.cleanup(clock[0])
            worker_registration.clean_worker_registry(queue)

    def subscribe(self) -> None:
        pubsub = PubSub(self.connection.connection_pool)
        pubsub.subscribe(
            **{
                self.pubsub_channel_name: self.handle_payload,
                CANCEL_CHANNEL: self.handle_cancel,
                TAKEOVER_CHANNEL: self.handle_takeover,
            }
        )
        self._commands = pubsub.run_in_thread(
            sleep_time=0.2, daemon=True, exception_handler=self._pubsub_exception_handler
        )

    def unsubscribe(self) -> None:
        if self._commands is not None:
            self._commands.stop()  # the thread closes its connection itself
            self._commands.join(timeout=2)

    def handle_payload(self, message: Any) -> None:
        """RQ's commands: ``shutdown`` drains, ``stop-job`` and ``stop-execution`` cancel the items of a job;
        there is no horse to kill."""
        try:
            payload = parse_payload(message)
            command, job_id = payload["command"], payload.get("job_id")
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            log.warning("unreadable RQ command ignored: %s", type(error).__name__)
            return
        if command == "shutdown" and self.on_shutdown is not None:
            log.info("RQ's shutdown command: draining")
            self.on_shutdown()
        elif command in ("stop-job", "stop-execution") and self.on_stop_job is not None:
            self.on_stop_job(str(job_id))
        else:
            log.warning("RQ command %.40r ignored", command)

    def handle_cancel(self, message: Any) -> None:
        """An item's id; whoever has it in hand does nothing more for it."""
        if self.on_cancel is not None:
            self.on_cancel(message["data"].decode("utf-8", "replace"))

    def handle_takeover(self, message: Any) -> None:
        """A conversation's id; replies of it that are under way are left."""
        if self.on_takeover is not None:
            self.on_takeover(message["data"].decode("utf-8", "replace"))

    def _pubsub_exception_handler(self, exc: BaseException, pubsub: Any, pubsub_thread: Any) -> None:
        if not isinstance(exc, Exception):
            raise exc
        if not self._stopping.wait(COMMAND_RETRY_S):
            log.debug("RQ command channel: %s", exc)

    def work(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError("BatchWorker has no loop of its own; moodq_worker.wiring runs it")

    def execute_job(self, job: Job, queue: Queue) -> NoReturn:
        raise NotImplementedError("jobs are run in batches by moodq_worker.loop")

    def perform_job(self, job: Job, queue: Queue, execution: Execution) -> NoReturn:
        raise NotImplementedError("jobs are run in batches by moodq_worker.loop")


def _alive(pid: int) -> bool:
    """Whether another process has this id. Our own id means a restarted container."""
    if pid <= 0 or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
