"""Builds one worker from the settings and runs it until it is told to stop.

Order matters: what can be wrong cheaply (Redis, the port, the tasks) is found out before the model loads,
and the worker claims nothing before the model has warmed up.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING

from prometheus_client import disable_created_metrics
from redis import Redis
from redis.exceptions import RedisError

from moodq_config.conversations import ConversationLimits
from moodq_config.errors import ConfigError, ErrorCode, ModelError, MoodqError
from moodq_config.logs import jobs_logged
from moodq_config.memory import MIB
from moodq_config.names import WORKER_SERVICE
from moodq_config.otel import start_tracing
from moodq_config.settings import Settings, server_url
from moodq_config.task_file import TaskFile
from moodq_config.tasks import TaskSet
from moodq_worker.announcing import announcer_of
from moodq_worker.connection import connect, unreachable
from moodq_worker.conversations import Conversations
from moodq_worker.delivery import Delivery, Terms
from moodq_worker.engine import Engine
from moodq_worker.engine_fake import FakeEngine
from moodq_worker.exit_codes import EXIT_HUNG, EXIT_PUT_BACK, EXIT_THREAD_DIED
from moodq_worker.extraction import check_schemas
from moodq_worker.health import HealthServer
from moodq_worker.heartbeat import Heartbeat
from moodq_worker.intake import Intake, IntakeLimits
from moodq_worker.items import Job
from moodq_worker.job_log import JobLog
from moodq_worker.loop import Loop
from moodq_worker.memory import MemoryGuard
from moodq_worker.metrics import Metrics
from moodq_worker.notify import READY, STOPPING, notify
from moodq_worker.openmp import wait_briefly
from moodq_worker.pace import Pace
from moodq_worker.pins import Pins
from moodq_worker.queue_metrics import QueueCollector
from moodq_worker.result_cache import ResultCache
from moodq_worker.route_lists import RouteLists
from moodq_worker.rq_job import JobLimits
from moodq_worker.rq_schedule import Scheduler
from moodq_worker.rq_worker import BatchWorker
from moodq_worker.task_watch import TaskWatch

if TYPE_CHECKING:
    from moodq_worker.remote.stage import HandOff

log = logging.getLogger(__name__)

#: Objects made more than freed after which Python looks for cycles.
GC_NEW_OBJECTS = 50_000
#: Seconds a pass may take to notice that it is not wanted any more; then the process ends without it.
ABANDON_S = 2.0


class Worker:
    """One worker process: threads for intake, delivery, heartbeat and health around the engine's loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._task_file = TaskFile(settings.tasks_file, partial(_check_tasks, settings))
        self._connection: Redis = connect(settings)
        disable_created_metrics()  # a second series for each counter
        self._metrics = Metrics()
        self._metrics.registry.register(
            QueueCollector(
                self._connection,
                settings.queues,
                settings.max_redis_mb * MIB,
                self._metrics.cost.seconds_per_job,
            )
        )
        self._metrics.begin(settings.queues)
        self._hand_off = _hand_off(settings, self._task_file.tasks, self._metrics, self._connection)
        self._ready = threading.Event()
        self._loop: Loop | None = None
        self._rq: BatchWorker | None = None
        self._loop_ended = threading.Event()
        self._abandoned = False
        self._metrics.ready.set_function(lambda: float(self._ready.is_set()))
        self._metrics.turn_age.set_function(self._turn_age_s)
        self._health = HealthServer(
            settings.metrics_host,
            settings.metrics_port,
            self._metrics.registry,
            alive=self._not_alive,
            ready=self._not_ready,
        )

    def run(self) -> int:
        """Load, warm up, work, drain. Returns the exit code; raises ``MoodqError`` when it cannot start."""
        settings = self._settings
        tasks = self._task_file.tasks
        engine = self._start_engine(tasks)
        name = settings.worker_name or f"moodq-{socket.gethostname()}-{os.getpid()}"
        rq = BatchWorker(
            list(settings.queues),
            connection=self._connection,
            name=name,
            lease_s=settings.lease_s,
            max_attempts=settings.max_attempts,
            result_ttl_s=settings.result_ttl_s,
            failure_ttl_s=settings.failure_ttl_s,
            limits=JobLimits(
                max_bytes=settings.max_job_mb * MIB,
                max_result_ttl_s=max(settings.max_ttl_s, settings.result_ttl_s),
                max_failure_ttl_s=max(settings.max_ttl_s, settings.failure_ttl_s),
            ),
            max_events=settings.max_events,
            id_prefixes=settings.queue_id_prefixes,
            conversations=ConversationLimits.of(settings),
        )
        budget = settings.batch_tokens or engine.best_batch_tokens()
        self._metrics.batch_limit.set(budget)
        loop = Loop(
            engine,
            tasks,
            self._metrics,
            queues=settings.queues,
            batch_tokens=budget,
            bulk_share=settings.bulk_share,
            weights=settings.queue_weights,
            max_replies=settings.max_replies,
            max_wait_s=settings.max_wait_ms / 1000,
            max_pass_s=settings.pass_timeout_s,
            max_reply_s=settings.reply_timeout_s,
            hand_off=self._hand_off,
        )
        pace = Pace()
        cache = ResultCache(
            self._connection,
            tasks,
            engine.info.ref,
            entries=settings.cache_entries,
            ttl_s=settings.cache_ttl_s,
        )
        tracers, tracing = start_tracing(WORKER_SERVICE, name), None
        if tracers is not None:
            from moodq_worker.tracing import Tracing

            tracing = Tracing(tracers, engine.info.ref)
        limits = IntakeLimits(
            max_items_per_job=settings.max_items_per_job,
            max_text_chars=settings.max_text_chars,
            max_text_tokens=settings.max_text_tokens,
            max_metadata_bytes=settings.max_metadata_bytes,
            long_text=settings.long_text,
            log_texts=settings.log_texts,
            id_prefixes=settings.queue_id_prefixes,
        )
        memory = MemoryGuard(
            self._connection, max_bytes=settings.max_redis_mb * MIB, first_queue=settings.queues[0]
        )

        def use_tasks(changed: TaskSet) -> None:
            cache.use_tasks(changed)
            loop.use_tasks(changed)
            intake.use_tasks(changed)

        watch = TaskWatch(self._task_file, self._metrics, use_tasks)
        intake = Intake(
            rq,
            engine,
            tasks,
            limits,
            accept=loop.accept,
            in_hand=loop.in_hand,
            held=loop.held,
            pace=pace,
            cache=cache,
            pins=Pins(self._connection),
            conversations=Conversations(
                ConversationLimits.of(settings), max_tokens=settings.conversation_tokens
            ),
            memory=memory,
            tracing=tracing,
            look_again=watch.look,
        )

        def finished(job: Job) -> None:
            loop.finished(job)
            pace.finished(len(job.items))
            memory.returned(job.result_bytes)
            intake.room_made()

        terms = Terms(
            name,
            engine.info.ref,
            settings.result_ttl_s,
            settings.max_attempts,
            settings.max_events,
            settings.retry_backoff_s,
            settings.max_retry_backoff_s,
        )
        job_log = JobLog(jobs_logged(settings), worker=name, model=engine.info.ref)
        routes = RouteLists(
            self._connection, ConversationLimits.of(settings), marked_for_s=settings.result_ttl_s
        )
        loop.delivery = delivery = Delivery(
            rq, self._metrics, terms, cache, routes, finished=finished, job_log=job_log, tracing=tracing
        )

        heartbeat = Heartbeat(
            rq,
            lease_s=settings.lease_s,
            hung=lambda: self._turn_age_s() > settings.hang_timeout_s,
            on_hang=lambda: os._exit(EXIT_HUNG),
            gave_up=lambda claim: intake.take([claim]),
            requeued=self._metrics.count_taken_over,
        )

        def drain() -> None:
            self._ready.clear()
            notify(STOPPING)
            intake.request_stop()
            loop.drain(settings.drain_timeout_s)

        memory.warn_of_eviction()
        self._loop, self._rq = loop, rq
        threading.excepthook = _end_process
        scheduler = Scheduler(rq.move_due)
        rq.on_shutdown, rq.on_stop_job, rq.on_cancel = drain, loop.stop_job, loop.cancel
        rq.on_takeover = loop.take_over
        self._on_signals(drain, self._put_back_now)
        _settle_garbage_collector()
        rq.start()
        delivery.start()
        heartbeat.start()
        intake.start()
        scheduler.start()
        watch.start()
        if self._hand_off is not None:
            self._hand_off.start()
            log.info("hand-off: some texts go to %s", settings.remote_url)
        self._ready.set()
        announcer = announcer_of(settings, rq, self._metrics, port=self._health.port, model=engine.info.ref)
        announcer.start()
        notify(READY)
        log.info(
            "ready: worker %s, queues %s, batches of %d tokens, metrics on port %d",
            name,
            ",".join(settings.queues),
            budget,
            self._health.port,
        )
        try:
            loop.run()
        finally:
            self._loop_ended.set()
            watch.stop()
            scheduler.stop()
            intake.stop()
            patience_s = ABANDON_S if self._abandoned else max(5.0, settings.drain_timeout_s)
            flushed = delivery.close(timeout_s=patience_s)
            left = loop.unfinished()
            try:
                if left:
                    log.info("putting back %d jobs that were not finished", len(left))
                    rq.put_back([job.claim for job in left])
                announcer.stop()
                heartbeat.stop()
                rq.stop()
            except RedisError as error:
                flushed = False
                log.error("Redis at the end: %s; another worker takes over what was in hand", error)
            self._health.close()
            if tracers is not None:
                tracers.close()
        if self._abandoned:
            log.info("stopped at the second signal")
            return EXIT_PUT_BACK
        log.info("drained" if flushed else "stopped with results that Redis did not take")
        return 0 if flushed else 1

    def _start_engine(self, tasks: TaskSet) -> Engine:
        engine = build_engine(self._settings)
        engine.use_tasks(tasks)
        began = time.monotonic()
        try:
            engine.warm_up(self._settings.warm_tasks)
        except MoodqError:
            raise
        except Exception as error:
            raise ModelError(
                f"warm-up failed ({type(error).__name__}: {error}); try MOODQ_PRECISION=fp32",
                code=ErrorCode.WARM_UP_FAILED,
            ) from error
        self._metrics.describe_model(engine.info)
        self._metrics.describe_tasks(tasks)
        log.info("warmed up in %.1f s: %s", time.monotonic() - began, engine.info)
        return engine

    def _on_signals(self, drain: Callable[[], None], put_back: Callable[[], None]) -> None:
        signals = 0

        def handle(signum: int, frame: FrameType | None) -> None:
            nonlocal signals
            signals += 1
            name = signal.Signals(signum).name
            if signals == 1:
                log.info("got %s: draining; a second signal puts back what runs", name)
                drain()
            elif signals == 2:
                log.warning("got %s again: putting back what runs", name)
                put_back()

        signal.signal(signal.SIGTERM, handle)
        signal.signal(signal.SIGINT, handle)

    def _put_back_now(self) -> None:
        """Leave the pass that runs; should it not notice, end the process, with its jobs put back."""
        loop, rq = self._loop, self._rq
        if loop is None or rq is None:
            return
        self._abandoned = True
        loop.abandon()

        def end() -> None:
            if self._loop_ended.wait(ABANDON_S):
                return
            log.warning("the engine does not come back; ending without it")
            try:
                rq.put_back([job.claim for job in loop.unfinished()])
                rq.stop()
            finally:
                os._exit(EXIT_PUT_BACK)

        threading.Thread(target=end, name="put-back", daemon=True).start()

    def _not_alive(self) -> str | None:
        return "the engine is stuck" if self._turn_age_s() > self._settings.hang_timeout_s else None

    def _turn_age_s(self) -> float:
        return time.monotonic() - self._loop.last_turn if self._loop is not None else 0.0

    def _not_ready(self) -> str | None:
        return None if self._ready.is_set() else "loading or draining"


def _check_tasks(settings: Settings, tasks: TaskSet) -> None:
    check_schemas(tasks)
    for name in settings.warm_tasks:
        if name not in tasks:
            raise ConfigError(f"MOODQ_WARM_TASKS: {name!r} is not a task; known: {', '.join(sorted(tasks))}")


def _hand_off(settings: Settings, tasks: TaskSet, metrics: Metrics, connection: Redis) -> HandOff | None:
    """None, and nothing of it imported, unless an endpoint is named."""
    if settings.remote_url is None:
        return None
    try:
        from moodq_worker.remote.stage import build_hand_off
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"MOODQ_REMOTE_URL: {error.name} is not installed; pip install 'moodq[remote]'"
        ) from error
    return build_hand_off(settings, tasks, metrics, connection)


def _settle_garbage_collector() -> None:
    """What is loaded stays for ever, and items are freed by their reference counts: looking through all of it
    after every few hundred new objects costs a fifth of the queue's speed."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_NEW_OBJECTS, *gc.get_threshold()[1:])


def _end_process(args: threading.ExceptHookArgs) -> None:
    name = args.thread.name if args.thread else "unknown"
    log.critical(
        "thread %s died; ending, so that another worker takes the jobs",
        name,
        exc_info=(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback),
    )
    os._exit(EXIT_THREAD_DIED)


def build_engine(settings: Settings) -> Engine:
    """The engine the settings name; the real one imports torch only here."""
    if settings.engine == "fake":
        return FakeEngine()
    wait_briefly(os.environ)
    from moodq_worker.model_store import resolve

    def loader() -> Callable[..., Engine]:
        from moodq_worker.engine_hf import load_engine

        return load_engine

    with ThreadPoolExecutor(1, thread_name_prefix="import") as beside:
        # Seconds of Python, while the other core compares the model with its hashes.
        importing = beside.submit(loader)
        files = resolve(settings)
    load_engine = importing.result()
    return load_engine(
        files.path,
        model_id=files.id,
        revision=files.revision,
        licence=files.licence,
        device=settings.device,
        precision=settings.precision,
        threads=settings.threads,
        kv_tokens=settings.kv_tokens,
        prefix_tokens=settings.prefix_tokens,
        decode=settings.decode,
    )


def run_worker(settings: Settings) -> int:
    """Run one worker in this process until SIGTERM; returns its exit code. Raises ``MoodqError``."""
    try:
        return Worker(settings).run()
    except RedisError as error:
        raise unreachable(server_url(settings), error) from error
