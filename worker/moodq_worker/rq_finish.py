"""Results and the end of their jobs in one step: what ``rq_worker`` does for every job that went well.

RQ finishes one job at a time, in a transaction of its own after a WATCH and a read. Here a batch's results
are written and its jobs finished by one script, so a batch costs one round trip and a crash finds either all
of it done or none. A worker that was only slow, and whose job another has taken over, writes nothing. The
script leaves Redis as RQ's ``handle_job_success`` does. Jobs that need more of RQ (those with dependents,
repeats or a rate limit, or whose result is not kept) are reported back for RQ's own code.
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

from moodq_config.conversations import JOIN_LUA, ConversationLimits, Routed, Turn, mark, written
from moodq_config.errors import ErrorCode
from moodq_config.names import conversation_key, events_key, result_key
from moodq_worker.route_lists import PUSH_LUA, ROUTE_CONF
from moodq_worker.rq_claim import Claim
from moodq_worker.rq_scripts import PRELUDE

#: Results and jobs of one call: a script holds the server for its duration, some milliseconds at this size.
RESULTS_AT_ONCE = 500
JOBS_AT_ONCE = 200
#: Entries an item's event stream may hold if nothing else is said: its labels, its tokens, its end.
MAX_EVENTS = 2_048
_PROBE = "a-job-id"

# KEYS: started and finished registry of each queue in turn, then the worker's hash and its executions.
# ARGV: conf; the number of jobs, and of each the number of its queue, its id and its execution's; the number
# of results, and of each the number of its job, its item's id and its body; the number of results with turns,
# and of each its number, its conversation, its mark (``conversations.mark``), the number of its turns and
# those; the number of results with a message for a route, and of each its number, its item, the route and the
# message; then of each job that ends its number, its TTL, the number of words of its RQ result and of the
# fields of its hash, and those words.
# Returns an ``End`` for each of the latter.
_FINISH = """
local worker, worker_executions = KEYS[#KEYS - 1], KEYS[#KEYS]

-- A key of the job's own that has been replaced by one of another type makes way: it must not hold up the
-- batch for ever.
local function put(command, key, ...)
  local done = redis.pcall(command, key, ...)
  if type(done) == 'table' and done.err then
    if not string.find(done.err, 'WRONGTYPE') then error(done.err) end
    redis.call('DEL', key)
    redis.call(command, key, ...)
  end
end

local jobs, place = {}, 3
for number = 1, tonumber(ARGV[2]) do
  local queue, job, execution = tonumber(ARGV[place]), ARGV[place + 1], ARGV[place + 2]
  jobs[number] = {wip = KEYS[queue * 2 + 1], registry = KEYS[queue * 2 + 2], id = job, execution = execution,
    member = job .. ':' .. execution}
  -- The execution is the fencing token: a job that was taken over is registered under another.
  jobs[number].held = redis.call('ZSCORE', jobs[number].wip, jobs[number].member)
  place = place + 3
end

-- Whether an item has an outcome that stands: another job may carry the same item.
local function decided(key)
  local value = redis.pcall('GET', key)
  if type(value) ~= 'string' then return false end
  local status = string.match(value, '"status":"(%a+)"')
  return status == 'done' or string.match(value, '"error":{"code":"([%w_]+)"') == conf.cancelled
end
local results, written = tonumber(ARGV[place]), {}
place = place + 1
for number = 1, results do
  local id, body = ARGV[place + 1], ARGV[place + 2]
  local key, events = conf.item_result .. id, conf.item_events .. id
  if jobs[tonumber(ARGV[place]) + 1].held then
    local new = redis.call('SET', key, body, 'EX', conf.result_ttl, 'NX')
    if new or not decided(key) then
      if not new then redis.call('SET', key, body, 'EX', conf.result_ttl) end
      put('XADD', events, 'MAXLEN', '~', conf.events_maxlen, '*', 'event', 'done', 'data', body)
      redis.call('EXPIRE', events, conf.result_ttl)
      written[number] = true
    end
  end
  place = place + 3
end

-- What was said stands in its conversation as soon as its result can be read, and only if that stands.
local talks = tonumber(ARGV[place])
place = place + 1
for _ = 1, talks do
  local turns_from = place + 4
  local turns_to = turns_from + tonumber(ARGV[place + 3]) - 1
  if written[tonumber(ARGV[place]) + 1] then
    local turns = {unpack(ARGV, turns_from, turns_to)}
    join_conversation(conf.conversation .. ARGV[place + 1], ARGV[place + 2], turns, conf.limits)
  end
  place = turns_to + 1
end

local messages = tonumber(ARGV[place])
place = place + 1
for _ = 1, messages do
  if written[tonumber(ARGV[place]) + 1] then
    push_to_route(ARGV[place + 1], ARGV[place + 2], ARGV[place + 3], conf.result_ttl)
  end
  place = place + 4
end

local ends, finished = {}, 0
while place <= #ARGV do
  local job, ttl = jobs[tonumber(ARGV[place]) + 1], tonumber(ARGV[place + 1])
  local result_from = place + 4
  local fields_from = result_from + tonumber(ARGV[place + 2])
  place = fields_from + tonumber(ARGV[place + 3])
  if not job.held then
    redis.call('SREM', worker_executions, job.member)
    table.insert(ends, 0)
  elseif redis.call('EXISTS', conf.dependents[1] .. job.id .. conf.dependents[2]) == 1 then
    table.insert(ends, 2)
  else
    local key, returned = conf.job .. job.id, conf.results .. job.id
    put('HSET', key, unpack(ARGV, fields_from, place - 1))
    redis.call('HDEL', key, conf.attempts)
    put('XADD', returned, 'MAXLEN', '~', 10, '*', unpack(ARGV, result_from, fields_from - 1))
    if ttl > 0 then
      redis.call('ZADD', job.registry, math.floor(now) + ttl, job.id)
      redis.call('EXPIRE', key, ttl)
      redis.call('EXPIRE', returned, ttl)
      redis.call('EXPIRE', conf.dependencies[1] .. job.id .. conf.dependencies[2], ttl)
    else
      redis.call('ZADD', job.registry, '+inf', job.id)
      redis.call('PERSIST', returned)
    end
    forget(job.wip, job.id, job.execution, conf.worker)
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
    """One item's id, its result as JSON, the job it came with, and what goes with it: the turns that join
    its conversation, the message for its route."""

    id: str
    body: bytes
    claim: Claim
    conversation: str | None = None
    turns: tuple[Turn, ...] = ()
    routed: Routed | None = None


class FinishScript:
    """The script, bound to a connection, with the names RQ gives its keys."""

    def __init__(
        self,
        connection: Redis,
        conf: dict[str, Any],
        *,
        result_ttl_s: int,
        max_events: int,
        conversations: ConversationLimits | None = None,
    ) -> None:
        self._script = connection.register_script(PRELUDE + JOIN_LUA + PUSH_LUA + _FINISH)
        probe = Job(_PROBE, connection)
        self._conf = conf | {
            "result_ttl": result_ttl_s,
            "events_maxlen": max_events,
            "item_result": result_key(""),
            "item_events": events_key(""),
            "conversation": conversation_key(""),
            "limits": (conversations or ConversationLimits()).as_dict(),
            **ROUTE_CONF,
            "results": cast("Any", Result).get_key(""),
            "dependents": probe.dependents_key.split(_PROBE),
            "dependencies": probe.dependencies_key.split(_PROBE),
            "idle": WorkerStatus.IDLE.value,
            "cancelled": ErrorCode.CANCELLED.value,
        }

    def __call__(
        self,
        worker: Any,
        results: Sequence[WrittenResult],
        jobs: Sequence[tuple[Claim, Any]],
        ended_at: datetime,
        default_ttl_s: int,
    ) -> list[End]:
        """Write ``results``, then finish ``jobs``, each with its return value; nothing of a job that is no
        longer this worker's. Repeatable: a job that an earlier, interrupted call has finished is ``GONE``."""
        claims = list(
            {
                claim.execution.id: claim
                for claim in (*(one.claim for one in results), *(claim for claim, _ in jobs))
            }.values()
        )
        place = {claim.execution.id: index for index, claim in enumerate(claims)}
        queues = list({claim.queue.name: claim.queue for claim in claims}.values())
        number = {queue.name: index for index, queue in enumerate(queues)}
        keys = [
            key
            for queue in queues
            for key in (queue.started_job_registry.key, queue.finished_job_registry.key)
        ] + [worker.key, worker.executions_key]
        words: list[Any] = [len(claims)]
        for claim in claims:
            words += (number[claim.queue.name], claim.job.id, claim.execution.id)
        words.append(len(results))
        for one in results:
            words += (place[one.claim.execution.id], one.id, one.body)
        talking = [(index, one) for index, one in enumerate(results) if one.conversation is not None]
        words.append(len(talking))
        for index, one in talking:
            words += (index, one.conversation, mark(one.id), len(one.turns), *map(written, one.turns))
        messages = [(index, one.routed) for index, one in enumerate(results) if one.routed is not None]
        words.append(len(messages))
        for index, message in messages:
            words += (index, message.id, message.route, written(message))
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
            words += [place[execution.id], ttl, len(result), len(hash_)]
            words += result + hash_
        conf = json.dumps(self._conf | {"worker": worker.name, "working_time": repr(working_s)})
        return [End(end) for end in cast("list[int]", self._script(keys, [conf, *words]))]


def needs_rq(job: Any) -> bool:
    """Whether a job has what only RQ's own code finishes; dependents are looked at in the script."""
    return bool((job.repeats_left or 0) > 0 or job.has_rate_limit or job.result_ttl == 0)


def _flat(fields: dict[str, Any]) -> list[Any]:
    return [part for pair in fields.items() for part in pair]
