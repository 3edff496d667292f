"""Cancelling an item: its result is written at once, so that nobody waits and no worker starts it.

The worker that has it in hand is told by a message; should that be lost, the item is worked on for nothing,
but its result stands. Pure: the clients send the script.
"""

from __future__ import annotations

from datetime import UTC, datetime

from moodq_config.contracts import ItemError, Result, ResultStatus, item_id
from moodq_config.errors import BadInput, ErrorCode
from moodq_config.names import CANCEL_CHANNEL, events_key, result_key
from moodq_config.settings import Settings

# KEYS: the item's result and its event stream. ARGV: the result, seconds it is kept, the channel, the id.
# Returns the outcome that was there before, or nothing.
CANCEL_SCRIPT = """
if not redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2], 'NX') then
  return redis.call('GET', KEYS[1])
end
redis.call('XADD', KEYS[2], '*', 'event', 'done', 'data', ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
return false
"""


def cancel_keys(id: str) -> list[str]:
    return [result_key(id), events_key(id)]


def cancel_args(id: str, settings: Settings) -> list[str | int]:
    """``ARGV`` of the script. Raises ``BadInput`` for what is no id."""
    if item_id({"id": id}) is None:
        raise BadInput("field id: send 1 to 128 of A-Z a-z 0-9 _ . -")
    result = Result(
        id=id,
        status=ResultStatus.FAILED,
        error=ItemError(code=ErrorCode.CANCELLED, message="the item was cancelled"),
        worker="",
        attempt=0,
        finished_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
    body = result.model_dump_json(exclude_none=True)
    return [body, settings.result_ttl_s, CANCEL_CHANNEL, id]


def was_cancelled(before: Result | None) -> bool:
    """Whether the item is cancelled now, given the outcome that was there before."""
    return before is None or (before.error is not None and before.error.code == ErrorCode.CANCELLED)
