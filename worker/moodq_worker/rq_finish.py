"""Results and the end of their jobs in one step: what ``rq_worker`` does for every job that went well.

RQ finishes one job at a time, in a transaction of its own after a WATCH and a read. Here a batch's results
are written and its jobs finished by one script, so a batch costs one round trip and a crash finds either all
of it done or none. The script leaves Redis as RQ's ``handle_job_success`` does. Jobs that need more of
RQ (those with dependents, repeats or a rate limit, or whose result is not kept) are reported back for RQ's
own code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any, cast

from redis import Redis
from rq.job import Job, JobStatus
from rq.results import Result
from rq.worker.base import WorkerStatus

from moodq_config.names import events_key, result_key
from moodq_worker.rq_claim import Claim
from moodq_worker.rq_scripts import PRELUDE

#: Results and jobs of one call: a script holds the server for its duration, some milliseconds at this size.
RESULTS_AT_ONCE = 500
JOBS_AT_ONCE = 200
#: Entries an item's event stream may hold: its labels, its tokens, its end.
EVENTS_MAXLEN = 2_048
_PROBE = "a-job-id"

# KEYS: started and finished registry of each queue in turn, then the worker's hash and its executions.
# ARGV: conf; the number of results, and of each its item's id and its body; then of each job the
# number of its queue, its id, its execution's, its TTL, the number of words of its RQ result and of the
# fields of its hash, and those words. Returns an ``End`` for each job.
_FINISH = """
local worker, worker_executions = KEYS[#KEYS - 1], KEYS[#KEYS]
local place = 3
for _ = 1, tonumber(ARGV[2]) do
  local body, events = ARGV[place + 1], conf.item_events .. ARGV[place]
  redis.call('SET', conf.item_result .. ARGV[place], body, 'EX', conf.result_ttl)
  -- An event is a courtesy; a key of another type in its place must not cost the result.
  redis.pcall('XADD', events, 'MAXLEN', '~', conf.events_maxlen, '*', 'event', 'done', 'data', body)
  redis.call('EXPIRE', events, conf.result_ttl)
  place = place + 2
end
local ends, finished = {}, 0
while place <= #ARGV do
  local queue, job, execution = tonumber(ARGV[place]), ARGV[place + 1], ARGV[place + 2]
  local ttl = tonumber(ARGV[place + 3])
  local result_from = place + 6
  local fields_from = result_from + tonumber(ARGV[place + 4])
  place = fields_from + tonumber(ARGV[place + 5])
  local wip, registry = KEYS[queue * 2 + 1], KEYS[queue * 2 + 2]
  if not redis.call('ZSCORE', wip, job .. ':' .. execution) then
    redis.call('SREM', worker_executions, job .. ':' .. execution)
    table.insert(ends, 0)
  elseif redis.call('EXISTS', conf.dependents[1] .. job .. conf.dependents[2]) == 1 then
    table.insert(ends, 2)
  else
    local key, results = conf.job .. job, conf.results .. job
    redis.call('HSET', key, unpack(ARGV, fields_from, place - 1))
    redis.call('HDEL', key, conf.attempts)
    redis.call('XADD', results, 'MAXLEN', '~', 10, '*', unpack(ARGV, result_from, fields_from - 1))
    if ttl > 0 then
      redis.call('ZADD', registry, math.floor(now) + ttl, job)
      redis.call('EXPIRE', key, ttl)
      redis.call('EXPIRE', results, ttl)
      redis.call('EXPIRE', conf.dependencies[1] .. job .. conf.dependencies[2], ttl)
    else
      redis.call('ZADD', registry, '+inf', job)
      redis.call('PERSIST', results)
    end
    forget(wip, job, execution, conf.worker)
    finished = finished + 1
    table.insert(ends, 1)
  end
end
if finished > 0 then
  redis.call('HINCRBY', worker, 'successful_job_count', finished)
  redis.call('HINCRBYFLOAT', worker, 'total_working_time', conf.working_time)
  if redis.call('EXISTS', worker_executions) == 0 then redis.call('HSET', worker, 'state', conf.idle) end
end
return ends
"""


class End(IntEnum):
    """What became of a job: no longer this worker's, finished, or still in hand, for RQ's own code."""

    GONE = 0
    FINISHED = 1
    NEEDS_RQ = 2


@dataclass(frozen=True, slots=True)
class WrittenResult:
    """One item's id and its result, as JSON."""

    id: str
    body: bytes


class FinishScript:
    """The script, bound to a connection, with the names RQ gives its keys."""

    def __init__(self, connection: Redis, conf: dict[str, Any], *, result_ttl_s: int) -> None:
        self._script = connection.register_script(PRELUDE + _FINISH)
        probe = Job(_PROBE, connection)
        self._conf = conf | {
            "result_ttl": result_ttl_s,
            "events_maxlen": EVENTS_MAXLEN,
            "item_result": result_key(""),
            "item_events": events_key(""),
            "results": cast("Any", Result).get_key(""),
            "dependents": probe.dependents_key.split(_PROBE),
            "dependencies": probe.dependencies_key.split(_PROBE),
            "idle": WorkerStatus.IDLE.value,
        }

    def __call__(
        self,
        worker: Any,
        results: Sequence[WrittenResult],
        jobs: Sequence[tuple[Claim, Any]],
        ended_at: datetime,
        default_ttl_s: int,
    ) -> list[End]:
        """Write ``results``, then finish ``jobs``, each with its return value. Repeatable: a job that an
        earlier, interrupted call has finished is ``GONE``."""
        queues = list({claim.queue.name: claim.queue for claim, _ in jobs}.values())
        number = {queue.name: index for index, queue in enumerate(queues)}
        keys = [
            key
            for queue in queues
            for key in (queue.started_job_registry.key, queue.finished_job_registry.key)
        ] + [worker.key, worker.executions_key]
        words: list[Any] = [word for one in results for word in (one.id, one.body)]
        working_s = 0.0
        for claim, value in jobs:
            job, execution = claim.job, claim.execution
            job.ended_at = job.last_heartbeat = ended_at
            job._status = JobStatus.FINISHED
            working_s += (ended_at - (job.started_at or ended_at)).total_seconds()
            result = _flat(
                Result(
                    job.id,
                    Result.Type.SUCCESSFUL,
                    job.connection,
                    return_value=value,
                    worker_name=worker.name,
                    serializer=job.serializer,
                    execution_id=execution.id,
                    execution_started_at=execution.created_at,
                    execution_ended_at=ended_at,
                ).serialize()
            )
            fields = job.to_dict(include_meta=False, include_result=False)
            fields.pop("data", None)  # stands in the hash as it was sent
            hash_ = _flat(fields)
            ttl = job.get_result_ttl(default_ttl_s)
            words += [number[claim.queue.name], job.id, execution.id, ttl, len(result), len(hash_)]
            words += result + hash_
        conf = json.dumps(self._conf | {"worker": worker.name, "working_time": repr(working_s)})
        return [End(end) for end in cast("list[int]", self._script(keys, [conf, len(results), *words]))]


def needs_rq(job: Any) -> bool:
    """Whether a job has what only RQ's own code finishes; dependents are looked at in the script."""
    return bool((job.repeats_left or 0) > 0 or job.has_rate_limit or job.result_ttl == 0)


def _flat(fields: dict[str, Any]) -> list[Any]:
    return [part for pair in fields.items() for part in pair]
