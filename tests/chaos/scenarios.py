"""What is done to workers, servers and connections while texts come in. Each ends with a ``Tally``."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moodq_worker.exit_codes import EXIT_HUNG

from .fleet import ROOT, Fleet
from .proxy import CuttingProxy
from .servers import Sentinels, Server
from .traffic import Tally, Traffic, executed_again
from .worker import POINTS

#: Seconds after the last text was accepted within which all must have ended.
SETTLE_S = 120.0
#: socket_timeout of the short form, so that a pause longer than every time-out is a short one.
SHORT_TIMEOUT_S = 1


@dataclass(frozen=True)
class Run:
    """One run of a scenario: its folder, how many texts, and for how many seconds harm is done."""

    folder: Path
    items: int
    seconds: float


def _every(seconds: float, pause: tuple[float, float], harm: Callable[[], object]) -> int:
    """Do harm again and again; returns how often."""
    end = time.monotonic() + seconds
    times = 0
    while time.monotonic() < end:
        time.sleep(random.uniform(*pause))
        harm()
        times += 1
    return times


@contextmanager
def _server(run: Run, *options: str) -> Iterator[Server]:
    server = Server(run.folder / "server", *options).start()
    try:
        yield server
    finally:
        server.close()


@contextmanager
def _fleet(run: Run, url: str, size: int = 2, **named: Any) -> Iterator[Fleet]:
    fleet = Fleet(run.folder, url, size, **named)
    try:
        yield fleet
    finally:
        codes = fleet.close()
    # -15: ended before it was ready; -9: killed just now.
    if any(code not in (0, -9, -15) for code in codes):
        raise AssertionError(f"workers ended with {codes}:\n{fleet.logs()[-8000:]}")


def _tally(run: Run, traffic: Traffic, fleet: Fleet, harm: str) -> Tally:
    tally = traffic.finish(SETTLE_S, quiet_s=min(8.0, 3.0 + run.seconds / 2))
    tally.executed_again = executed_again(fleet.executions)
    tally.harm = harm
    ends = {code: count for code, count in fleet.ends.items() if code not in (-9, 0, EXIT_HUNG)}
    if ends:
        tally.faults.append(f"workers ended by themselves: {ends}")
        tally.wrong += 1
    return tally


def workers_killed(run: Run) -> Tally:
    """kill -9 of a random worker, again and again."""
    with _server(run) as server, _fleet(run, server.url, 3) as fleet:
        traffic = Traffic("killed", server.url, run.items, run.seconds, pass_s=0.02).start()
        kills = _every(run.seconds, (0.5, 1.5), fleet.kill_one)
        return _tally(run, traffic, fleet, f"{kills} kills")


def workers_killed_at_points(run: Run) -> Tally:
    """Workers that kill themselves where it hurts: each of ``POINTS`` in turn."""
    harmful = max(len(POINTS), round(run.seconds))

    def harm(number: int) -> dict[str, str]:
        point = POINTS[number % len(POINTS)]
        return {"CHAOS_DIE": f"{point}:{random.randint(1, 3)}"} if number < harmful else {}

    with _server(run) as server, _fleet(run, server.url, 3, harm=harm) as fleet:
        traffic = Traffic("points", server.url, run.items, run.seconds).start()
        return _tally(run, traffic, fleet, "").after(f"{fleet.ends[-9]} deaths at {len(POINTS)} points")


def _restart(server: Server, *, empty: bool = False, away_s: float = 0.5) -> None:
    server.kill()
    time.sleep(away_s)
    if empty:
        server.empty()
    server.start()


def server_killed(run: Run) -> Tally:
    """kill -9 of the server, which writes every command to disk before it answers. Nothing is sent again."""
    with _server(run, "--appendfsync", "always") as server, _fleet(run, server.url) as fleet:
        traffic = Traffic("always", server.url, run.items, run.seconds, pass_s=0.1).start()
        kills = _every(run.seconds, (1.5, 3.0), lambda: _restart(server))
        return _tally(run, traffic, fleet, f"{kills} kills")


def server_killed_everysec(run: Run) -> Tally:
    """The same with a write to disk every second; what was lost with it is sent again."""
    with _server(run, "--appendfsync", "everysec") as server, _fleet(run, server.url) as fleet:
        traffic = Traffic("everysec", server.url, run.items, run.seconds, forgetful=True, pass_s=0.1).start()
        kills = _every(run.seconds, (1.5, 3.0), lambda: _restart(server))
        return _tally(run, traffic, fleet, f"{kills} kills")


def server_emptied(run: Run) -> Tally:
    """The server comes back with nothing. Producers send again what has no result."""
    with _server(run) as server, _fleet(run, server.url) as fleet:
        traffic = Traffic("emptied", server.url, run.items, run.seconds, forgetful=True, pass_s=0.1).start()
        times = _every(run.seconds, (2.0, 3.0), lambda: _restart(server, empty=True))
        return _tally(run, traffic, fleet, f"emptied {times} times")


def server_paused(run: Run) -> Tally:
    """SIGSTOP of the server for longer than leases and every time-out."""
    pause_s = max(4.0 * SHORT_TIMEOUT_S, run.seconds / 2)
    with _server(run) as server:
        url = f"{server.url}?socket_timeout={SHORT_TIMEOUT_S}"
        with _fleet(run, url) as fleet:
            traffic = Traffic("paused", url, run.items, run.seconds, pass_s=0.3).start()
            time.sleep(run.seconds / 4)
            server.pause()
            time.sleep(pause_s)
            server.resume()
            return _tally(run, traffic, fleet, f"paused {pause_s:.0f} s")


def server_full(run: Run) -> Tally:
    """Out of memory with noeviction, for several leases, while work is in hand."""
    with _server(run, "--maxmemory-policy", "noeviction") as server, _fleet(run, server.url) as fleet:
        traffic = Traffic("full", server.url, run.items, run.seconds / 2, pass_s=0.2).start()
        time.sleep(run.seconds / 4)
        full_s = max(7.0, run.seconds / 2)
        server.client.config_set("maxmemory", "1mb")
        time.sleep(full_s)
        server.client.config_set("maxmemory", "0")
        return _tally(run, traffic, fleet, f"full {full_s:.0f} s")


def connections_cut(run: Run) -> Tally:
    """Every connection ends after a random number of bytes."""
    with _server(run) as server:
        proxy = CuttingProxy(server.port)
        url = f"redis://127.0.0.1:{proxy.port}/0"
        with _fleet(run, url) as fleet:
            traffic = Traffic("cut", url, run.items, run.seconds, pass_s=0.05, watch=server.url).start()
            proxy.cutting = True
            time.sleep(run.seconds)
            proxy.cutting = False
            tally = _tally(run, traffic, fleet, f"{proxy.cuts} cuts")
        proxy.close()
        return tally


def server_demoted(run: Run) -> Tally:
    """The server behind a plain URL becomes a read-only replica, then the master again."""
    with _server(run) as server:
        other = Server(run.folder / "other", "--replicaof", "127.0.0.1", str(server.port)).start()
        try:
            with _fleet(run, server.url) as fleet:
                traffic = Traffic("demoted", server.url, run.items, run.seconds, pass_s=0.1).start()
                time.sleep(run.seconds / 4)
                _hand_over(server, other)
                time.sleep(max(2.0, run.seconds / 3))
                _hand_over(other, server)
                return _tally(run, traffic, fleet, "demoted once")
        finally:
            other.close()


def _hand_over(master: Server, replica: Server) -> None:
    """Make ``replica`` the master once it has all; nothing is written meanwhile, as when this is planned."""
    master.client.execute_command("CLIENT", "PAUSE", 10_000, "WRITE")
    deadline = time.monotonic() + 10
    while True:
        ours, theirs = master.client.info("replication"), replica.client.info("replication")
        if theirs.get("master_link_status") == "up" and (
            ours["master_repl_offset"] == theirs["master_repl_offset"]
        ):
            break
        if time.monotonic() > deadline:
            raise TimeoutError("the replica does not catch up")
        time.sleep(0.02)
    replica.client.replicaof("NO", "ONE")
    master.client.replicaof("127.0.0.1", str(replica.port))
    master.client.execute_command("CLIENT", "UNPAUSE")


def sentinel_failover(run: Run) -> Tally:
    """kill -9 of the master under three Sentinels. What no replica had yet is sent again."""
    group = Sentinels(run.folder / "group", password="a-password")
    try:
        with _fleet(run, group.url) as fleet:
            traffic = Traffic(
                "failover", group.url, run.items, run.seconds, forgetful=True, pass_s=0.1
            ).start()
            time.sleep(run.seconds / 3)
            old = group.master()
            old.kill()
            deadline = time.monotonic() + 30
            while group.master() is old:
                if time.monotonic() > deadline:
                    raise TimeoutError("the Sentinels chose no new master")
                time.sleep(0.1)
            old.start()  # and becomes a replica
            return _tally(run, traffic, fleet, "1 failover")
    finally:
        group.close()


def worker_stopped(run: Run) -> Tally:
    """SIGSTOP of a worker until its jobs have been taken over; when it goes on it must overwrite nothing."""
    with _server(run) as server, _fleet(run, server.url) as fleet:
        traffic = Traffic("stopped", server.url, run.items, run.seconds, pass_s=0.5).start()
        times = 0
        end = time.monotonic() + run.seconds
        while not times or time.monotonic() < end:
            time.sleep(random.uniform(0.3, 1.0))
            go_on = fleet.stop_one(times % 2)
            time.sleep(4.5)
            go_on()
            time.sleep(0.5)
            times += 1
        return _tally(run, traffic, fleet, f"stopped {times} times")


def engine_stuck(run: Run) -> Tally:
    """A forward pass that never ends: the worker ends itself and its jobs move."""
    hanging = max(2, round(run.seconds / 4))

    def harm(number: int) -> dict[str, str]:
        return {"CHAOS_HANG": "2"} if number < hanging else {}

    with _server(run) as server, _fleet(run, server.url, harm=harm, MOODQ_HANG_TIMEOUT_S="2") as fleet:
        traffic = Traffic("stuck", server.url, run.items, run.seconds).start()
        tally = _tally(run, traffic, fleet, f"{fleet.ends[EXIT_HUNG]} workers ended with {EXIT_HUNG}")
        if not fleet.ends[EXIT_HUNG] or "the engine is stuck" not in fleet.logs():
            tally.faults.append("no worker noticed that its engine was stuck")
            tally.wrong += 1
        return tally.after(f"{fleet.ends[EXIT_HUNG]} workers ended with {EXIT_HUNG}")


def clocks_jump(run: Run) -> Tally:
    """Workers' clocks step by 30 hours to and fro, and the server's by two: all leases end at once."""

    def harm(number: int) -> dict[str, str]:
        return {"CHAOS_CLOCK_H": "30"}

    with _server(run) as server, _fleet(run, server.url, harm=harm) as fleet:
        traffic = Traffic("clock", server.url, run.items, run.seconds, pass_s=0.4).start()

        def step() -> None:
            for queue in ("interactive", "bulk"):
                for member in server.client.zrange(f"rq:wip:{queue}", 0, -1):
                    server.client.zadd(f"rq:wip:{queue}", {member: -7200}, incr=True, xx=True)

        jumps = _every(run.seconds, (0.3, 0.9), step)
        return _tally(run, traffic, fleet, f"{jumps} jumps")


def producers_die(run: Run) -> Tally:
    """Producers end between sending a job and hearing that it was taken; it is sent again, by others."""
    with _server(run) as server, _fleet(run, server.url) as fleet:
        deaths = 0

        def die(ids: list[str]) -> None:
            nonlocal deaths
            command = [sys.executable, "-m", "tests.chaos.producer", server.url, *ids]
            deaths += subprocess.run(command, cwd=ROOT, capture_output=True).returncode == -9

        count = max(3, min(40, run.items // 25))
        alone = [f"c-producers-{number}" for number in range(run.items // 5)]
        doomed = [alone[start : start + 5] for start in range(0, len(alone), 5)][:count]

        def die_all() -> None:
            for ids in doomed:
                die(ids)

        thread = threading.Thread(target=die_all)
        thread.start()
        traffic = Traffic("producers", server.url, run.items, run.seconds).start()
        thread.join()
        tally = _tally(run, traffic, fleet, f"{deaths} producers died")
        if deaths < len(doomed):
            tally.faults.append("a producer did not die")
            tally.wrong += 1
        return tally


def long_passes(run: Run) -> Tally:
    """Forward passes of more than two leases are no death: every text is run once."""
    with _server(run) as server, _fleet(run, server.url, MOODQ_BATCH_TOKENS="4096") as fleet:
        traffic = Traffic("long", server.url, min(run.items, 6), 1.0, pass_s=5.0).start()
        tally = _tally(run, traffic, fleet, "passes of 5 s, leases of 2 s")
        tally.wrong += tally.executed_again
        return tally


Scenario = Callable[[Run], Tally]
#: Each with its share of the texts and the seconds of harm of the long form.
SCENARIOS: dict[Scenario, tuple[float, float]] = {
    workers_killed: (1.5, 60.0),
    workers_killed_at_points: (1.5, 40.0),
    server_killed: (1.0, 30.0),
    server_killed_everysec: (1.0, 30.0),
    server_emptied: (0.5, 20.0),
    server_paused: (1.0, 60.0),
    server_full: (0.5, 20.0),
    connections_cut: (1.0, 30.0),
    server_demoted: (1.0, 15.0),
    sentinel_failover: (1.0, 20.0),
    worker_stopped: (0.5, 20.0),
    engine_stuck: (0.5, 20.0),
    clocks_jump: (1.0, 20.0),
    producers_die: (1.0, 20.0),
    long_passes: (0.01, 5.0),
}


def name_of(scenario: Scenario) -> str:
    return scenario.__name__.replace("_", " ")


def in_all(tallies: dict[str, Tally]) -> dict[str, float]:
    """Sums over all scenarios, and the longest delay."""
    sums: Counter[str] = Counter()
    for tally in tallies.values():
        for field in (
            "items",
            "done",
            "failed",
            "lost",
            "wrong",
            "executed_again",
            "resubmitted",
            "rewritten",
        ):
            sums[field] += getattr(tally, field)
    longest = max((tally.delay_s for tally in tallies.values()), default=0.0)
    return {**sums, "delay_s": round(longest, 2)}
