"""The life of jobs as a model, and the real thing beside it: whatever producers and workers do, in whatever
order, a job is in exactly one place, its attempts are counted, it ends once, and nothing is lost.

Hypothesis chooses the steps: submissions and their repetitions, claims, heartbeats, ends, failures, workers
that die, are too slow, take over or put back, results that expire.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis import Redis

from moodq_config.contracts import ItemError, Result, ResultStatus
from moodq_config.errors import ErrorCode, ModelError
from moodq_config.names import ATTEMPTS_FIELD, BULK, INTERACTIVE, events_key, result_key
from moodq_config.settings import load_settings
from moodq_producer import Client
from moodq_worker.rq_claim import Claim
from moodq_worker.rq_finish import WrittenResult
from moodq_worker.rq_worker import BatchWorker

MAX_ATTEMPTS = 3
QUEUES = (INTERACTIVE, BULK)
#: Few, so that steps meet.
IDS = tuple("abcd")


@dataclass
class Job:
    """What the model knows. ``place``: where the job is; ``result``: the status at its result key."""

    queue: str = INTERACTIVE
    place: str = "nowhere"
    attempts: int = 0
    execution: str = ""
    late: bool = False
    result: str = ""
    runs: Counter[str] = field(default_factory=Counter)


class LifeCycle(RuleBasedStateMachine):
    url = ""

    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.redis: Any = Redis.from_url(self.url)
        self.redis.flushdb()
        self.client = Client(load_settings(redis_url=self.url, max_attempts=MAX_ATTEMPTS))
        self.jobs = {id: Job() for id in IDS}
        self.waiting: dict[str, list[str]] = {queue: [] for queue in QUEUES}
        self.workers = [self.new_worker(), self.new_worker()]

    def teardown(self) -> None:
        self.client.close()
        for worker in self.workers:
            worker.connection.close()
        self.redis.close()

    def new_worker(self) -> BatchWorker:
        worker: Any = BatchWorker(
            QUEUES,
            connection=Redis.from_url(self.url),
            name=f"model-{uuid4().hex[:8]}",
            lease_s=30.0,
            max_attempts=MAX_ATTEMPTS,
            result_ttl_s=500,
            failure_ttl_s=600,
        )
        worker.register_birth()  # all of ``start`` but its threads
        return cast("BatchWorker", worker)

    # -- producers ----------------------------------------------------------------------------------------

    @rule(id=st.sampled_from(IDS), queue=st.sampled_from(QUEUES))
    def submit(self, id: str, queue: str) -> None:
        """For the first time, again while it is under way, or again when it has ended."""
        job = self.jobs[id]
        self.client.submit("a text", id=id, queue=queue)
        if job.place in ("queue", "started") or job.result:
            return
        self.jobs[id] = Job(queue, "queue", runs=job.runs)
        self.waiting[queue].append(id)

    @rule(id=st.sampled_from(IDS))
    def result_expires(self, id: str) -> None:
        self.redis.delete(result_key(id), events_key(id))
        self.jobs[id].result = ""

    @precondition(lambda self: any(job.place in ("finished", "failed") for job in self.jobs.values()))
    @rule(data=st.data())
    def ended_job_expires(self, data: st.DataObject) -> None:
        """Its hash goes by its TTL; the registry's entry is swept later."""
        ended = [id for id, job in self.jobs.items() if job.place in ("finished", "failed")]
        id = data.draw(st.sampled_from(ended))
        self.redis.delete(f"rq:job:{id}", f"rq:results:{id}", result_key(id), events_key(id))
        self.redis.zrem(f"rq:{self.jobs[id].place}:{self.jobs[id].queue}", id)
        self.jobs[id] = Job(runs=self.jobs[id].runs)

    # -- workers ------------------------------------------------------------------------------------------

    @rule(target=claims, number=st.sampled_from([0, 1]), most=st.integers(1, 4))
    def claim(self, number: int, most: int) -> Any:
        worker = self.workers[number]
        expected = self.claimable(worker, most)
        found = worker.claim(most, QUEUES)
        assert [claim.job.id for claim in found] == expected
        for claim in found:
            job = self.jobs[claim.job.id]
            self.waiting[job.queue].remove(claim.job.id)
            job.place, job.execution, job.late = "started", claim.execution.id, False
            job.attempts += 1
            assert claim.attempt == job.attempts <= MAX_ATTEMPTS
            assert claim.error is None
        return multiple(*((worker, claim) for claim in found))

    def claimable(self, worker: BatchWorker, most: int) -> list[str]:
        """In order; a job on its last attempt goes alone, to empty hands, and holds up what is behind it."""
        if worker._alone in worker.executions:
            return []
        order = [id for queue in QUEUES for id in self.waiting[queue]]
        taken: list[str] = []
        for id in order[:most]:
            if self.jobs[id].attempts + 1 == MAX_ATTEMPTS:
                return taken or ([] if worker.executions else [id])
            taken.append(id)
        return taken

    @rule(number=st.sampled_from([0, 1]))
    def beat(self, number: int) -> None:
        worker = self.workers[number]
        worker.beat()
        for job in self.jobs.values():
            if job.place == "started" and job.execution in worker.executions:
                job.late = False

    @rule(held=consumes(claims))
    def finish(self, held: tuple[BatchWorker, Claim]) -> None:
        worker, claim = held
        job = self.jobs[claim.job.id]
        ours = self.is_current(claim)
        assert worker.finish([written(claim, "done")], [(claim, {"done": 1})]) == [ours]
        if ours:
            self.end(job, "finished", "done")

    @rule(held=consumes(claims))
    def write_and_die_before_finishing(self, held: tuple[BatchWorker, Claim]) -> None:
        worker, claim = held
        worker.finish([written(claim, "done")], [])
        if self.is_current(claim):
            self.jobs[claim.job.id].result = "done"
        self.die(worker)

    @rule(held=consumes(claims))
    def fail(self, held: tuple[BatchWorker, Claim]) -> None:
        """As delivery does when the engine failed: tried again as long as there are attempts."""
        worker, claim = held
        job = self.jobs[claim.job.id]
        ours = self.is_current(claim)
        retry = claim.error is None and claim.attempt < MAX_ATTEMPTS and bool(claim.job.should_retry)
        if not retry:
            worker.finish([written(claim, "failed")], [])
            if ours and job.result != "done":
                job.result = "failed"
        assert worker.fail(claim, claim.error or ModelError("it failed"), retry=retry) == ours
        if ours and retry:
            job.place, job.execution = "queue", ""
            self.waiting[job.queue].append(claim.job.id)
        elif ours:
            self.end(job, "failed", job.result)

    @rule(number=st.sampled_from([0, 1]))
    def is_too_slow(self, number: int) -> None:
        """Its leases run out, and it does not know."""
        self.leases_run_out(self.workers[number])

    @rule(number=st.sampled_from([0, 1]))
    def dies(self, number: int) -> None:
        self.die(self.workers[number])

    @rule(target=claims, number=st.sampled_from([0, 1]))
    def take_over(self, number: int) -> Any:
        worker = self.workers[number]
        late = {id: job for id, job in self.jobs.items() if job.place == "started" and job.late}
        back = {id for id, job in late.items() if job.attempts < MAX_ATTEMPTS}
        found = worker.take_over()
        assert found.requeued == len(back)
        for queue in QUEUES:
            ours = {id for id in back if late[id].queue == queue}
            front = [id.decode() for id in self.redis.lrange(f"rq:queue:{queue}", 0, len(ours) - 1)]
            assert set(front[: len(ours)]) == ours
            self.waiting[queue][:0] = front[: len(ours)]
        for id in back:
            late[id].place, late[id].execution = "queue", ""
        assert {claim.job.id for claim in found.given_up} == set(late) - back
        for claim in found.given_up:
            assert claim.error is not None
            assert claim.error.code == ErrorCode.MAX_ATTEMPTS
            late[claim.job.id].late = False
        return multiple(*((worker, claim) for claim in found.given_up))

    @rule(number=st.sampled_from([0, 1]), held=st.lists(consumes(claims), max_size=3))
    def put_back(self, number: int, held: list[tuple[BatchWorker, Claim]]) -> None:
        """What a worker that drains has not begun; the attempt does not count."""
        worker = self.workers[number]
        mine = [claim for owner, claim in held if owner is worker]
        current = [claim for claim in mine if self.is_current(claim) and claim.error is None]
        assert worker.put_back(mine) == len(current)
        for claim in reversed(current):
            job = self.jobs[claim.job.id]
            job.place, job.execution = "queue", ""
            job.attempts -= 1
            self.waiting[job.queue].insert(0, claim.job.id)
        for owner, claim in held:
            if owner is not worker or (claim.error is not None and self.is_current(claim)):
                self.leases_run_out_of([claim])  # dropped by this test: as if its worker had died

    # -- what must hold -----------------------------------------------------------------------------------

    @invariant()
    def every_job_is_in_exactly_one_place(self) -> None:
        places: dict[str, list[str]] = {id: [] for id in IDS}
        for queue in QUEUES:
            ids = [id.decode() for id in self.redis.lrange(f"rq:queue:{queue}", 0, -1)]
            assert ids == self.waiting[queue]
            for id in ids:
                places[id].append(f"queue {queue}")
            for member in self.redis.zrange(f"rq:wip:{queue}", 0, -1):
                id, _, execution = member.decode().partition(":")
                assert execution == self.jobs[id].execution
                places[id].append(f"started {queue}")
            for registry in ("finished", "failed"):
                for id in self.redis.zrange(f"rq:{registry}:{queue}", 0, -1):
                    places[id.decode()].append(f"{registry} {queue}")
        for id, job in self.jobs.items():
            assert places[id] == ([] if job.place == "nowhere" else [f"{job.place} {job.queue}"]), id

    @invariant()
    def hashes_say_the_same(self) -> None:
        for id, job in self.jobs.items():
            status, attempts = self.redis.hmget(f"rq:job:{id}", "status", ATTEMPTS_FIELD)
            shown = {"queue": b"queued", "nowhere": None}.get(job.place, job.place.encode())
            assert status == shown, id
            assert int(attempts or 0) == (job.attempts if job.place in ("queue", "started") else 0)
            assert self.redis.exists(f"rq:job:{id}") == (job.place != "nowhere")

    @invariant()
    def a_result_that_is_done_stays(self) -> None:
        for id, job in self.jobs.items():
            body = self.redis.get(result_key(id))
            status = "" if body is None else str(Result.model_validate_json(body).status.value)
            assert status == job.result, id

    @invariant()
    def executions_of_ended_jobs_are_gone(self) -> None:
        running = {job.execution for job in self.jobs.values() if job.place == "started"}
        keys = {key.decode().rpartition(":")[2] for key in self.redis.keys("rq:execution:*")}
        assert keys <= running

    # -- helpers ------------------------------------------------------------------------------------------

    def is_current(self, claim: Claim) -> bool:
        job = self.jobs[claim.job.id]
        return job.place == "started" and job.execution == claim.execution.id

    def end(self, job: Job, place: str, result: str) -> None:
        job.place, job.execution, job.attempts = place, "", 0
        job.result = job.result if job.result == "done" else result

    def die(self, worker: BatchWorker) -> None:
        if worker in self.workers:
            self.leases_run_out(worker)
            worker.connection.close()
            self.workers[self.workers.index(worker)] = self.new_worker()

    def leases_run_out(self, worker: BatchWorker) -> None:
        for job in self.jobs.values():
            if job.place == "started" and job.execution in worker.executions:
                job.late = True
        for id, job in self.jobs.items():
            if job.place == "started" and job.late:
                self.redis.zincrby(f"rq:wip:{job.queue}", -100.0, f"{id}:{job.execution}")

    def leases_run_out_of(self, claims: list[Claim]) -> None:
        for claim in claims:
            if self.is_current(claim):
                self.jobs[claim.job.id].late = True
                self.redis.zincrby(
                    f"rq:wip:{self.jobs[claim.job.id].queue}", -100.0, f"{claim.job.id}:{claim.execution.id}"
                )


def written(claim: Claim, status: str) -> WrittenResult:
    result = Result(
        id=str(claim.job.id),
        status=ResultStatus(status),
        error=ItemError(code="engine_failed", message="it failed") if status == "failed" else None,
        worker="model",
        attempt=claim.attempt,
        finished_at="now",
    )
    return WrittenResult(result.id, result.model_dump_json(exclude_none=True).encode(), claim)


@pytest.mark.timeout(900)  # for finding the shortest way to a failure
def test_whatever_happens_a_job_is_in_one_place_and_ends_once(redis_url: str) -> None:
    LifeCycle.url = redis_url
    run_state_machine_as_test(
        LifeCycle,
        settings=settings(
            max_examples=50, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
