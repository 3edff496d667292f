"""What is done to the system so that an alert fires: to each alert what it is there for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from moodq_producer import control

from .load import item, outdated, push
from .prometheus import Api
from .system import NO_TASKS, System

#: One text of these fills a batch of the fake engine, so that each costs what it asks for.
PAD = " " + "x" * 480
OTHER_TASKS = """
[tasks.spam]
kind = "label"
labels = ["spam", "ham"]
prompt.zh = { system = "广告还是正常？", words = { spam = "广告", ham = "正常" } }
prompt.en = { system = "Spam or normal?", words = { spam = "spam", ham = "normal" } }
"""


@dataclass
class Stage:
    system: System
    api: Api
    connection: Redis

    def restart(self, worker: int) -> None:
        """A worker in the place of one that has ended."""
        fresh = self.system.start_worker()
        self.system.workers[worker] = fresh
        fresh.wait_ready()


@dataclass(frozen=True)
class Exercise:
    """``short``: part of the short drill. What is done is undone by ``undo``."""

    title: str
    alerts: frozenset[str]
    do: Callable[[Stage], None]
    undo: Callable[[Stage], None] = field(default=lambda stage: None)
    short: bool = False


def _wait(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > limit:
            raise RuntimeError("the drill's own preparation did not come about")
        time.sleep(0.05)


def _pause_over_old_messages(stage: Stage) -> None:
    control.pause(stage.connection, None)
    time.sleep(1.2)
    for _ in range(60):
        outdated(stage.connection, 3_600)


def _resume(stage: Stage) -> None:
    control.resume(stage.connection)


def _raise(stage: Stage) -> None:
    for _ in range(40):
        push(stage.connection, [item("[[raise]]")])


def _blank(stage: Stage) -> None:
    for _ in range(40):
        push(stage.connection, [item("  ") for _ in range(50)])


def _late(stage: Stage) -> None:
    for _ in range(20):
        push(stage.connection, [item("x", deadline="2020-01-01T00:00:00Z") for _ in range(50)])


def _flood(stage: Stage) -> None:
    for _ in range(12):
        push(stage.connection, [item("[[sleep 3]]" + PAD)], "bulk")
    time.sleep(20)
    control.pause(stage.connection, None)
    time.sleep(1.5)
    for _ in range(1_900):
        push(stage.connection, [item("fine")], "bulk")


def _drop_flood(stage: Stage) -> None:
    stage.connection.delete("rq:queue:bulk")
    _resume(stage)


def _fill(stage: Stage) -> None:
    stage.connection.set("moodq:drill:pad", b"x" * (40 << 20))


def _empty(stage: Stage) -> None:
    stage.connection.delete("moodq:drill:pad")


def _slow_server(stage: Stage) -> None:
    server: Any = stage.connection
    for _ in range(7):
        push(stage.connection, [item("fine")])
        server.client_pause(1_400, all=False)
        time.sleep(1.6)


def _break_tasks(stage: Stage) -> None:
    stage.system.tasks_file.write_text("this is = no TOML\n", "utf-8")


def _mend_tasks(stage: Stage) -> None:
    stage.system.tasks_file.write_text(NO_TASKS, "utf-8")


def _other_tasks(stage: Stage) -> None:
    path = stage.system.folder / "other.toml"
    path.write_text(OTHER_TASKS, "utf-8")
    worker = stage.system.start_worker(MOODQ_TASKS_FILE=str(path))
    stage.system.workers.append(worker)
    worker.wait_ready()


def _without_other_tasks(stage: Stage) -> None:
    stage.system.workers.pop().stop()


def _sour(stage: Stage) -> None:
    for _ in range(30):
        push(stage.connection, [item(f"bad {time.time_ns()}") for _ in range(50)])


def _kill_busy(stage: Stage) -> None:
    for _ in range(8):
        push(stage.connection, [item("[[sleep 1]]" + PAD)])
    key = "rq:worker:" + stage.system.names[0]
    _wait(lambda: stage.connection.hget(key, "state") == b"busy")
    stage.system.workers[0].kill()


def _abandon(stage: Stage) -> None:
    """What a plain RQ worker leaves that died: a started job whose time is over."""
    stage.connection.sadd("rq:queues", "rq:queue:reports")
    stage.connection.zadd("rq:wip:reports", {"lost:1": time.time() - 1})


def _forget_abandoned(stage: Stage) -> None:
    stage.connection.srem("rq:queues", "rq:queue:reports")
    stage.connection.delete("rq:wip:reports")


def _stick(stage: Stage) -> None:
    for _ in range(40):
        push(stage.connection, [item("[[sleep 75]]" + PAD)])
    for _ in range(600):
        push(stage.connection, [item("fine" + PAD)])


def _unstick(stage: Stage) -> None:
    for worker in stage.system.workers:
        worker.kill()
    server: Any = stage.connection
    server.delete("rq:queue:interactive", "rq:wip:interactive", "rq:wip:bulk")
    for number in range(len(stage.system.workers)):
        stage.restart(number)


def _without_workers(stage: Stage) -> None:
    for worker in stage.system.workers:
        worker.stop()
    push(stage.connection, [item("anybody there?")])


def _with_workers(stage: Stage) -> None:
    for number in range(len(stage.system.workers)):
        stage.restart(number)


def _kill_exporter(stage: Stage) -> None:
    stage.system.exporter.kill()


def _restart_exporter(stage: Stage) -> None:
    stage.system.exporter = stage.system.start_exporter()
    stage.system.exporter.wait_ready()


def _ask_remote(stage: Stage) -> None:
    for _ in range(12):
        push(stage.connection, [item("fine", ("style",))])


def _stop_redis(stage: Stage) -> None:
    stage.system.stop_redis()


def _of(*names: str) -> frozenset[str]:
    return frozenset(f"Moodq{name}" for name in names)


#: In this order; the last ends the system.
EXERCISES = (
    Exercise("paused while an hour old messages wait", _of("Paused", "InteractiveWaits"),
             _pause_over_old_messages, short=True),
    Exercise("they are answered", _of("LatencyHigh"), _resume, short=True),
    Exercise("the engine raises", _of("ItemsFail", "FailedJobs"), _raise, short=True),
    Exercise("blank texts", _of("BadInput"), _blank),
    Exercise("deadlines have passed", _of("DeadlinesMissed"), _late),
    Exercise("all customers are angry", _of("LabelMixDrift"), _sour),
    Exercise("the remote endpoint is away", _of("RemoteBreakerOpen"), _ask_remote),
    Exercise("a broken tasks file is saved", _of("TasksFileRefused"), _break_tasks, _mend_tasks, short=True),
    Exercise("a third worker has other tasks", _of("WorkersDiffer"), _other_tasks, _without_other_tasks),
    Exercise("Redis fills up", _of("RedisMemoryHigh"), _fill, _empty, short=True),
    Exercise("Redis writes slowly", _of("ResultWritesSlow"), _slow_server),
    Exercise("a plain RQ worker died", _of("AbandonedJobs"), _abandon, _forget_abandoned),
    Exercise("dear jobs flood the bulk queue", _of("Backlog", "QueueNearlyFull"), _flood, _drop_flood),
    Exercise("a worker is killed with work in hand", _of("Takeovers", "WorkerDown"), _kill_busy,
             lambda stage: stage.restart(0), short=True),
    Exercise("every pass takes for ever", _of("Stalled", "EngineStuck"), _stick, _unstick),
    Exercise("all workers stop while messages come", _of("NoWorkers"), _without_workers, _with_workers),
    Exercise("the exporter is killed", _of("ExporterDown"), _kill_exporter, _restart_exporter),
    Exercise("Redis stops", _of("RedisDown"), _stop_redis, short=True),
)  # fmt: skip
#: Cannot be brought about with an engine whose confidence never changes; ``promtool`` lets it fire.
NOT_LIVE = _of("ConfidenceDrift")
