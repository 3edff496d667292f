"""Scheduled jobs become due: what RQ leaves to a scheduler process, so that ``Retry(interval=…)``,
``enqueue_in`` and a failed job's backoff work without one.

Every worker looks; RQ's own lock says whose turn it is, so a scheduler of RQ may run beside it.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis
from redis.exceptions import RedisError
from rq.job import Job, JobStatus
from rq.queue import Queue
from rq.registry import ScheduledJobRegistry
from rq.scheduler import RQScheduler
from rq.utils import as_text, now, utcformat

from moodq_worker.outage import Outage
from moodq_worker.rq_job import MoodqJob

log = logging.getLogger(__name__)

#: Seconds between two looks, and for how long whoever found something keeps the turn.
EVERY_S = 0.5
LOCK_S = 5
#: Jobs moved in one step per queue.
LIMIT = 500

# KEYS: of each queue in turn its scheduled registry, its list and RQ's scheduler lock. ARGV: conf.
# Returns the number moved and {queue index, job id} of those that only RQ's code may move: they take part in
# a rate limit. Only what is due is written, so an idle worker only reads.
_MOVE_DUE = """
local conf = cjson.decode(ARGV[1])
local now = redis.call('TIME')[1]
local moved, left = 0, {}
for queue = 1, #KEYS / 3 do
  local registry, list, lock = KEYS[queue * 3 - 2], KEYS[queue * 3 - 1], KEYS[queue * 3]
  local due = redis.call('ZRANGEBYSCORE', registry, '-inf', now, 'LIMIT', 0, conf.limit)
  local owner = #due > 0 and redis.call('GET', lock)
  if #due > 0 and (not owner or owner == conf.worker) then
    redis.call('SET', lock, conf.worker, 'EX', conf.lock_s)
    for _, id in ipairs(due) do
      local key = conf.job .. id
      local found = redis.pcall('HMGET', key, 'status', 'enqueue_at_front', 'enqueue_at_front_on_retry',
        'ended_at', 'rate_limit_key', 'rate_limit_concurrency')
      if found[5] and found[6] then
        table.insert(left, {queue - 1, id})
      else
        redis.call('ZREM', registry, id)
        if found[1] == conf.scheduled then
          redis.call('HSET', key, 'status', conf.queued, 'enqueued_at', conf.date)
          local front = found[2] == '1' or (found[3] == '1' and found[4] and found[4] ~= '')
          redis.call(front and 'LPUSH' or 'RPUSH', list, id)
          moved = moved + 1
        end
      end
    end
  end
end
return {moved, left}
"""


class DueJobs:
    """``move`` puts the jobs of ``queues`` that are due into their queues."""

    def __init__(self, connection: Redis, queues: Sequence[Queue], worker_name: str) -> None:
        self._connection = connection
        self._queues = list(queues)
        self._script = connection.register_script(_MOVE_DUE)
        registry: Any = ScheduledJobRegistry
        self._registries = [registry(queue.name, connection=connection) for queue in queues]
        self._keys = [
            key
            for queue, registry in zip(self._queues, self._registries, strict=True)
            for key in (registry.key, queue.key, RQScheduler.get_locking_key(queue.name))
        ]
        self._conf = {
            "worker": worker_name,
            "job": Job.key_for(""),
            "scheduled": JobStatus.SCHEDULED.value,
            "queued": JobStatus.QUEUED.value,
            "limit": LIMIT,
            "lock_s": LOCK_S,
        }

    def move(self) -> int:
        """Returns how many were moved. Raises ``RedisError``."""
        conf = json.dumps(self._conf | {"date": utcformat(now())})
        reply: Any = self._script(self._keys, [conf])
        moved, left = reply
        for index, raw_id in left:
            self._move_limited(self._queues[index], self._registries[index], as_text(raw_id))
        return int(moved) + len(left)

    def _move_limited(self, queue: Queue, registry: ScheduledJobRegistry, id: str) -> None:
        """A job that takes part in a rate limit waits for a slot, as RQ's scheduler lets it."""
        [job] = MoodqJob.fetch_many([id], connection=self._connection)
        try:
            with self._connection.pipeline() as pipeline:
                registry.remove(id, pipeline=pipeline)
                if job is not None:
                    front = job.should_enqueue_at_front()
                    queue._enqueue_rate_limited_job(job, pipeline=pipeline, at_front=front)
                pipeline.execute()
        except RedisError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever RQ makes of a stranger's fields
            log.warning("scheduled job %s cannot be enqueued (%s); dropped", id, type(error).__name__)
            registry.remove(id)


class Scheduler:
    """A thread that lets jobs become due."""

    def __init__(self, move: Callable[[], int]) -> None:
        self._move = move
        self._outage = Outage("no scheduled job becomes due")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=EVERY_S + 1)

    def _run(self) -> None:
        pause_s = EVERY_S
        while not self._stop.wait(pause_s):
            try:
                if moved := self._move():
                    log.info("%d scheduled jobs are due", moved)
                self._outage.over()
                pause_s = EVERY_S
            except RedisError as error:
                pause_s = max(EVERY_S, self._outage.failed(error))
