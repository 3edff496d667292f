"""A whole cluster as a discrete-event simulation: workers with their three threads, the cable, the servers.

What things take is measured: the server's time for each script (``server_cost``) and the engine's for a pass.
Queues are never empty, so what comes out is the most that so many workers and servers do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import simpy

from moodq_worker.capacity.simulate import JOB_S
from moodq_worker.pace import LEAST_IN_HAND, MOST_JOBS, SECONDS_IN_HAND

Moves = Generator[Any, Any, None]

#: Seconds between two beats of a worker with the shipped lease, each of which renews every job in hand.
BEAT_S = 10.0
WARM_UP_S = 2.0


@dataclass(frozen=True, slots=True)
class Setting:
    """``pass_s`` gives the seconds of a pass over so many texts, ``fit`` of which make a batch. ``server`` is
    a ``ServerCost`` as a dictionary. ``producing``: the server also takes in as many jobs as are done, and
    gives out their results."""

    workers: int
    servers: int
    round_trip_s: float
    items_per_job: int
    fit: int
    pass_s: Callable[[int], float]
    server: dict[str, Any]
    producing: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """``busy``: part of the time in which a server's one thread worked."""

    items_per_s: float
    busy: float


def run(setting: Setting, seconds: float = 4.0) -> Result:
    """Texts a second over ``seconds``, after a warm-up."""
    env = simpy.Environment()
    servers = [_Server(env) for _ in range(setting.servers)]
    workers = [_Worker(env, setting, servers, number) for number in range(setting.workers)]
    # Until all have their hands full.
    first_claims = setting.workers / setting.servers * workers[0].most / setting.items_per_job
    warm_up = WARM_UP_S + 2 * first_claims * setting.server["claim"]["job_s"]
    env.run(warm_up)
    before, busy = sum(one.done for one in workers), sum(one.busy_s for one in servers)
    env.run(warm_up + seconds)
    done, worked = sum(one.done for one in workers), sum(one.busy_s for one in servers)
    return Result((done - before) / seconds, (worked - busy) / seconds / len(servers))


class _Server:
    def __init__(self, env: simpy.Environment) -> None:
        self._env = env
        self._thread = simpy.Resource(env)
        self.busy_s = 0.0

    def call(self, seconds: float, round_trip_s: float) -> Moves:
        yield self._env.timeout(round_trip_s)
        with self._thread.request() as turn:
            yield turn
            yield self._env.timeout(seconds)
        self.busy_s += seconds


class _Worker:
    """Intake, loop and delivery side by side, as in ``wiring``."""

    def __init__(self, env: simpy.Environment, setting: Setting, servers: list[_Server], number: int) -> None:
        self._env, self._setting, self._server = env, setting, servers[number % len(servers)]
        self._first_beat_s = BEAT_S * number / setting.workers
        self.done = self._in_hand = self._ready = self._ended = 0
        self._changed = env.event()
        full = setting.fit / (setting.pass_s(setting.fit) + setting.fit * self._python_s)
        self.most = max(LEAST_IN_HAND, int(full * SECONDS_IN_HAND))
        for thread in (self._intake, self._loop, self._delivery, self._heartbeat):
            env.process(thread())

    @property
    def _python_s(self) -> float:
        return JOB_S / self._setting.items_per_job

    def _change(self) -> None:
        changed, self._changed = self._changed, self._env.event()
        changed.succeed()

    def _intake(self) -> Moves:
        per_job = self._setting.items_per_job
        while True:
            while self._in_hand >= self.most:
                yield self._changed
            jobs = max(1, min(MOST_JOBS, (self.most - self._in_hand) // per_job))
            yield from self._call("claim", jobs)
            self._in_hand += jobs * per_job
            self._ready += jobs * per_job
            self._change()

    def _loop(self) -> Moves:
        while True:
            while not self._ready:
                yield self._changed
            texts = min(self._ready, self._setting.fit)
            self._ready -= texts
            yield self._env.timeout(self._setting.pass_s(texts) + texts * self._python_s)
            self._ended += texts
            self._change()

    def _delivery(self) -> Moves:
        while True:
            while not self._ended:
                yield self._changed
            texts, self._ended = self._ended, 0
            yield from self._call("finish", texts / self._setting.items_per_job)
            self._in_hand -= texts
            self.done += texts
            self._change()

    def _heartbeat(self) -> Moves:
        yield self._env.timeout(self._first_beat_s)
        while True:
            yield self._env.timeout(BEAT_S)
            yield from self._call("renew", self._in_hand / self._setting.items_per_job)

    def _call(self, step: str, jobs: float) -> Moves:
        cost = self._setting.server
        seconds = cost[step]["script_s"] + jobs * cost[step]["job_s"]
        if step == "finish" and self._setting.producing:
            seconds += jobs * (cost["enqueue"]["job_s"] + cost["read"]["job_s"])
        yield from self._server.call(seconds, self._setting.round_trip_s)
