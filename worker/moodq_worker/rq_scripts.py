"""The Lua scripts of the worker: each moves jobs between RQ's list and registries in one step.

RQ pops an id and registers it in a second step, with an intermediate list between. Here a job is always in
its queue's list or in the started registry, so there is no moment in which a crash can lose it. Keys and
fields are RQ's own, taken from its classes. Scores are by the server's clock: workers' clocks may differ.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, cast

from redis import Redis
from rq.executions import WORKER_EXECUTIONS_KEY_TEMPLATE, Execution, ExecutionRegistry
from rq.job import Job

from moodq_config.names import ATTEMPTS_FIELD

#: Seconds RQ keeps the index of a job's (and a worker's) executions longer than the executions themselves.
INDEX_GRACE_S = 60

#: Seconds added to a lease in RQ's registry. RQ's own clean-up, which ``rq info`` and dashboards run too,
#: fails every job whose entry has expired; with this, jobs of dead workers stay ours to take over meanwhile.
RQ_GRACE_S = 3600

PRELUDE = """
local conf = cjson.decode(ARGV[1])
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local function at(seconds) return string.format('%.3f', now + seconds) end
local function count_of(text) return math.floor(tonumber(text or '') or 0) end

-- The registration of an execution, as rq.executions.Execution.create and .delete leave it.
local function index(wip, job, execution)
  redis.call('ZADD', conf.executions_of .. job, at(conf.ttl + conf.index_grace), execution)
  redis.call('EXPIRE', conf.executions_of .. job, conf.ttl + conf.index_grace)
  redis.call('ZADD', wip, at(conf.ttl), job .. ':' .. execution)
end
local function forget(wip, job, execution, worker)
  local member = job .. ':' .. execution
  redis.call('ZREM', wip, member)
  redis.call('DEL', conf.execution .. member)
  redis.call('ZREM', conf.executions_of .. job, execution)
  if worker and worker ~= '' then
    redis.call('SREM', conf.worker_head .. worker .. conf.worker_tail, member)
  end
end
"""

# KEYS: list and started registry of each queue in turn, then the worker's hash and its executions.
# ARGV: conf, then as many fresh execution ids as jobs may be claimed.
# Returns {queue index, job id, execution id, attempt, hash} for each; no execution id: an unusable job id.
# A job on its last attempt is claimed only by a worker with empty hands, and nothing with it: its worker died
# each time before, and if it dies again only this job shall be to blame. Until then nothing is claimed: the
# last row is then {-1}.
_CLAIM = """
local worker, worker_executions = KEYS[#KEYS - 1], KEYS[#KEYS]
local claimed, bytes, stop = {}, 0, false
for queue = 1, (#KEYS - 2) / 2 do
  local list, wip = KEYS[queue * 2 - 1], KEYS[queue * 2]
  local prefix = conf.prefixes[queue]
  while #claimed < #ARGV - 1 and bytes < conf.enough_bytes do
    local id = redis.pcall('LPOP', list)
    if not id or type(id) == 'table' then break end
    local key = conf.job .. id
    -- An id that is not this queue's belongs to somebody else: it is dropped here, the job is left alone.
    local size = string.sub(id, 1, #prefix) == prefix and redis.pcall('HLEN', key)
    local attempt = type(size) == 'number' and count_of(redis.call('HGET', key, conf.attempts)) + 1
    local alone = attempt and attempt > 1 and attempt >= conf.max_attempts
    if alone and not (conf.empty_hands and #claimed == 0) then
      redis.call('LPUSH', list, id)
      if #claimed == 0 then return {{-1}} end
      stop = true
      break
    end
    if type(size) == 'number' and size > 0 then
      if not string.find(id, '^[%w_%-]+$') then
        redis.call('HSET', key, 'status', 'failed')
        redis.call('EXPIRE', key, conf.failure_ttl)
        table.insert(claimed, {queue - 1, id, '', 0, {}})
      else
        local execution = ARGV[#claimed + 2]
        redis.call('HSET', key, conf.attempts, attempt, unpack(conf.job_fields))
        redis.call('PERSIST', key)
        local fields = {'id', execution, 'job_id', id}
        for _, field in ipairs(conf.execution_fields) do table.insert(fields, field) end
        redis.call('HSET', conf.execution .. id .. ':' .. execution, unpack(fields))
        redis.call('EXPIRE', conf.execution .. id .. ':' .. execution, conf.ttl)
        index(wip, id, execution)
        redis.call('SADD', worker_executions, id .. ':' .. execution)
        table.insert(claimed, {queue - 1, id, execution, attempt, redis.call('HGETALL', key)})
        bytes = bytes + redis.call('HSTRLEN', key, 'data')
        stop = alone
      end
    end
    if stop then break end
  end
  if stop then break end
end
if #claimed > 0 then
  redis.call('EXPIRE', worker_executions, conf.ttl + conf.index_grace)
  if redis.call('EXISTS', worker) == 1 then redis.call('HSET', worker, 'state', conf.busy) end
end
return claimed
"""

# KEYS: the started registry of each execution. ARGV: conf, then job id and execution id of each.
# Returns the ids of the executions that are still registered; the others are someone else's by now.
_RENEW = """
local held = {}
for number, wip in ipairs(KEYS) do
  local job, execution = ARGV[number * 2], ARGV[number * 2 + 1]
  local key = conf.execution .. job .. ':' .. execution
  if redis.call('ZSCORE', wip, job .. ':' .. execution) then
    -- First a command that needs no memory: a full server lets a script go on that has written already, and
    -- it is then that leases have to be kept.
    redis.call('EXPIRE', key, conf.ttl)
    index(wip, job, execution)
    if redis.call('EXISTS', key) == 1 then
      redis.call('HSET', key, 'last_heartbeat', conf.timestamp)
      redis.call('EXPIRE', key, conf.ttl)
    end
    if redis.call('EXISTS', conf.job .. job) == 1 then
      redis.call('HSET', conf.job .. job, 'last_heartbeat', conf.date)
    end
    table.insert(held, execution)
  end
end
return held
"""

# KEYS: list and started registry of one queue. ARGV: conf.
# Returns the number put back, and {job id, execution id, attempt, hash} of those whose attempts are used up;
# these get a new lease, so that one worker fails them.
_TAKE_OVER = """
local list, wip = KEYS[1], KEYS[2]
local members = redis.call('ZRANGEBYSCORE', wip, 0, '(' .. at(conf.rq_grace), 'LIMIT', 0, conf.limit)
local function lives_elsewhere(job, execution)
  for _, other in ipairs(redis.call('ZRANGE', conf.executions_of .. job, 0, -1)) do
    local score = redis.call('ZSCORE', wip, job .. ':' .. other)
    if other ~= execution and score and tonumber(score) >= now + conf.rq_grace then return true end
  end
  return false
end
local requeued, given_up = 0, {}
for number = #members, 1, -1 do  -- the oldest last: it ends up in front
  local job, execution = string.match(members[number], '^([^:]+):([^:]+)$')
  local key = conf.job .. (job or '')
  local found = redis.pcall('HMGET', key, 'status', conf.attempts, 'worker_name', 'retries_left')
  local status, attempts, worker, retries = found[1], found[2], found[3], count_of(found[4])
  if not job then
    redis.call('ZREM', wip, members[number])
  elseif not status then
    forget(wip, job, execution, worker)
  elseif not attempts then
    -- An execution of a plain RQ worker: RQ's business.
  elseif status ~= 'started' or lives_elsewhere(job, execution) then
    forget(wip, job, execution, worker)
  elseif count_of(attempts) < conf.max_attempts then
    forget(wip, job, execution, worker)
    redis.call('HSET', key, 'status', 'queued')
    if retries > 0 then redis.call('HSET', key, 'retries_left', retries - 1) end
    redis.call('LPUSH', list, job)
    requeued = requeued + 1
  else
    index(wip, job, execution)
    table.insert(given_up, {job, execution, count_of(attempts), redis.call('HGETALL', key)})
  end
end
return {requeued, given_up}
"""

# KEYS: list and started registry of each claim in turn. ARGV: conf, then job id and execution id of each, in
# reverse order of claiming. Returns how many were still registered and are now in front of their queues.
_PUT_BACK = """
local done = 0
for number = 1, #KEYS / 2 do
  local list, wip = KEYS[number * 2 - 1], KEYS[number * 2]
  local job, execution = ARGV[number * 2], ARGV[number * 2 + 1]
  if redis.call('ZSCORE', wip, job .. ':' .. execution) then
    forget(wip, job, execution, conf.worker)
    local key = conf.job .. job
    local attempts = count_of(redis.call('HGET', key, conf.attempts))
    if redis.call('EXISTS', key) == 1 then
      redis.call('HSET', key, 'status', 'queued', conf.attempts, math.max(0, attempts - 1))
      redis.call('LPUSH', list, job)
      done = done + 1
    end
  end
end
return done
"""


class Scripts:
    """The scripts, bound to a connection. ``lease_s`` is how long an execution lives without a heartbeat."""

    def __init__(self, connection: Redis, *, lease_s: float, max_attempts: int, failure_ttl_s: int) -> None:
        self._claim = connection.register_script(PRELUDE + _CLAIM)
        self._renew = connection.register_script(PRELUDE + _RENEW)
        self._take_over = connection.register_script(PRELUDE + _TAKE_OVER)
        self._put_back = connection.register_script(PRELUDE + _PUT_BACK)
        head, _, tail = WORKER_EXECUTIONS_KEY_TEMPLATE.format("\n").partition("\n")
        probe = Execution("", "", connection)
        #: Names of RQ's keys and the terms every script works by.
        self.conf: dict[str, Any] = {
            "job": Job.key_for(""),
            "execution": probe.key.removesuffix(probe.composite_key),
            "executions_of": ExecutionRegistry("", connection).key,
            "worker_head": head,
            "worker_tail": tail,
            "attempts": ATTEMPTS_FIELD,
            "ttl": lease_ttl(lease_s),
            "rq_grace": RQ_GRACE_S,
            "index_grace": INDEX_GRACE_S,
            "max_attempts": max_attempts,
            "failure_ttl": failure_ttl_s,
        }

    def claim(
        self,
        keys: Sequence[str],
        executions: Sequence[str],
        *,
        execution: Execution,
        job_fields: dict[str, str],
        busy: str,
        enough_bytes: int,
        empty_hands: bool,
        prefixes: Sequence[str],
    ) -> list[list[Any]]:
        """``execution`` is the pattern of those to be registered under the ids of ``executions``. No more is
        claimed once the jobs' data come to ``enough_bytes``. ``prefixes``: by queue, what its jobs' ids begin
        with."""
        fields = {
            name: value for name, value in execution.serialize().items() if name not in ("id", "job_id")
        }
        conf = self._with(
            job_fields=_flat(job_fields),
            execution_fields=_flat(fields),
            busy=busy,
            enough_bytes=enough_bytes,
            empty_hands=empty_hands,
            prefixes=list(prefixes),
        )
        return cast("list[list[Any]]", self._claim(keys, [conf, *executions]))

    def renew(
        self, registries: Sequence[str], ids: Sequence[str], *, timestamp: float, date: str
    ) -> list[bytes]:
        """``ids`` holds job id and execution id of each entry of ``registries``."""
        conf = self._with(timestamp=repr(timestamp), date=date)
        return cast("list[bytes]", self._renew(registries, [conf, *ids]))

    def take_over(self, keys: Sequence[str], *, limit: int) -> tuple[int, list[list[Any]]]:
        requeued, given_up = cast("list[Any]", self._take_over(keys, [self._with(limit=limit)]))
        return requeued, given_up

    def put_back(self, keys: Sequence[str], ids: Sequence[str], *, worker: str) -> int:
        return cast("int", self._put_back(keys, [self._with(worker=worker), *ids]))

    def _with(self, **more: object) -> str:
        return json.dumps(self.conf | more)


def lease_ttl(lease_s: float) -> int:
    """Seconds after which RQ itself would call an execution abandoned."""
    return math.ceil(lease_s) + RQ_GRACE_S


def hash_of(flat: Sequence[bytes]) -> dict[bytes, bytes]:
    """A hash from the flat list a script returns."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _flat(fields: dict[str, Any]) -> list[str]:
    return [str(part) for pair in fields.items() for part in pair]
