"""The lists of messages for people, one for each route: pushed as soon as a rule holds.

``delivery`` pushes what still waits for its reply, ``rq_finish`` pushes with the result, so that none is
lost. Whoever comes second finds the item marked.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from redis import Redis

from moodq_config.conversations import ConversationLimits
from moodq_config.names import ROUTE_PREFIX, ROUTED_PREFIX

# A function of Lua, for the scripts that need it: a message of an item joins its route once.
PUSH_LUA = """
local function push_to_route(item, route, message, marked_for)
  if not redis.call('SET', conf.routed .. item, route, 'EX', marked_for, 'NX') then return end
  local list = conf.route .. route
  if redis.call('TYPE', list).ok ~= 'list' then redis.call('DEL', list) end
  redis.call('RPUSH', list, message)
  redis.call('LTRIM', list, -conf.limits.routed, -1)
  redis.call('EXPIRE', list, conf.limits.ttl)
end
"""
# ARGV: conf, then of each message the id of its item, its route and itself.
_PUSH = """
local conf = cjson.decode(ARGV[1])
PUSH_LUA
for place = 2, #ARGV, 3 do
  push_to_route(ARGV[place], ARGV[place + 1], ARGV[place + 2], conf.marked_for)
end
""".replace("PUSH_LUA", PUSH_LUA)

ROUTE_CONF = {"route": ROUTE_PREFIX, "routed": ROUTED_PREFIX}


class RouteLists:
    """``marked_for_s``: how long an item is known to have been pushed; as long as its result."""

    def __init__(self, connection: Redis, limits: ConversationLimits, *, marked_for_s: int) -> None:
        self._script = connection.register_script(_PUSH)
        self._conf = json.dumps({**ROUTE_CONF, "limits": limits.as_dict(), "marked_for": marked_for_s})

    def push(self, messages: Sequence[tuple[str, str, bytes]]) -> None:
        """Item id, route and message of each. May raise ``RedisError``; the results bring them again."""
        words: list[str | bytes] = [word for message in messages for word in message]
        self._script(args=[self._conf, *words])
