"""Hosts that are cut off, die, leave and come back while texts come in: nothing is lost or written twice."""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from .cluster import Cluster, WorkerOnHost
from .hosts import end
from .ledger import Account, Ledger

#: Seconds within which a host's jobs must have been done by others, or must be done at the end.
SETTLE_S = 60.0
#: Part of what the hosts can do that comes in, beside the backlog.
LOAD = 0.5
ITEMS_PER_HOST_S = 200
BACKLOG_PER_HOST = 600
DRAIN_S = 20.0
#: What is done to a host: it is told to stop, its process dies, its cable is pulled for a while.
HARMS = ("drained", "killed", "cut off")
DROPPED = "is no longer this worker's"


@dataclass(frozen=True, slots=True)
class TakeOver:
    """``held``: jobs in the hands of the host when it was cut off. ``seconds``: from then until the last of
    them had its result. ``back_s``: from the cable's return until the worker finished a job again.
    ``refused``: jobs it then tried to finish that were no longer its own."""

    lease_s: float
    held: int
    seconds: float
    back_s: float
    refused: int
    account: Account

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def take_over(lease_s: float, hosts: int = 2) -> TakeOver:
    """Cut a host off in mid-work, see others do what it held, and let it come back."""
    with Cluster({"MOODQ_LEASE_S": str(lease_s)}) as cluster, cluster.client() as client:
        lost, *_ = cluster.start(hosts)
        ledger = Ledger(client, cluster.redis, backlog=hosts * BACKLOG_PER_HOST, items_per_s=_rate(1))
        _wait_until_holding(cluster, lost)
        lost.host.cut()
        time.sleep(0.05)  # what was on the cable has arrived
        held = cluster.in_hand(lost)
        seconds = ledger.wait_for(held, SETTLE_S)
        before = cluster.done()[lost.name]
        lost.host.join()
        back = time.monotonic()
        while cluster.done()[lost.name] == before:
            if time.monotonic() > back + SETTLE_S or lost.process.poll() is not None:
                raise RuntimeError(f"the worker does not come back:\n{lost.log()[-4000:]}")
            time.sleep(0.05)
        back_s = time.monotonic() - back
        account = ledger.finish(SETTLE_S)
        return TakeOver(
            lease_s, len(held), round(seconds, 2), round(back_s, 2), lost.log().count(DROPPED), account
        )


def come_and_go(seconds: float, hosts: int = 4, *, lease_s: float = 2.0, seed: int = 1) -> dict[str, Any]:
    """Hosts leave in every way, and are replaced, while others work; in each way at least once."""
    choose = random.Random(seed)
    harms: Counter[str] = Counter()
    faults: list[str] = []
    with (
        Cluster({"MOODQ_LEASE_S": str(lease_s), "MOODQ_MAX_ATTEMPTS": "20"}) as cluster,
        cluster.client() as client,
    ):
        cluster.start(hosts)
        rate = _rate(hosts)
        ledger = Ledger(client, cluster.redis, backlog=hosts * BACKLOG_PER_HOST, items_per_s=rate)
        until = time.monotonic() + seconds
        while time.monotonic() < until or len(harms) < len(HARMS):
            harm = HARMS[harms.total() % len(HARMS)]
            worker = choose.choice([one for one in cluster.workers if one.process.poll() is None])
            _wait_until_holding(cluster, worker)
            harms[harm] += 1
            if harm == "cut off":
                worker.host.cut()
                time.sleep(choose.uniform(1.2, 1.5) * lease_s)
                worker.host.join()
                continue
            if harm == "killed":
                worker.process.kill()
                worker.process.wait()
            elif (code := end(worker.process, patience_s=DRAIN_S)) != 0:
                faults.append(f"a worker told to stop ended with {code}")
            cluster.start_on(worker.host).wait_ready()
        account = ledger.finish(SETTLE_S)
        account.faults += faults
        return {"hosts": hosts, "harms": dict(harms), "account": asdict(account), "clean": account.clean}


def _rate(hosts: int) -> float:
    return LOAD * ITEMS_PER_HOST_S * hosts


def _wait_until_holding(cluster: Cluster, worker: WorkerOnHost) -> None:
    """Return when the worker has finished some jobs and holds more."""
    deadline = time.monotonic() + SETTLE_S
    while not (cluster.done()[worker.name] and cluster.in_hand(worker)):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{worker.name} holds nothing:\n{worker.log()[-4000:]}")
        time.sleep(0.01)
