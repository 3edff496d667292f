"""What a conversation holds, and how a turn joins it: the same for workers, clients and people.

``moodq:conversation:<id>`` is a list of turns as JSON; ``moodq:takeover:<id>`` is there while a person
answers in place of the model; ``moodq:route:<route>`` lists messages that a rule has sent to a person.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from moodq_config.answers import Answer, Reading
from moodq_config.contracts import Deadline, deadline_at
from moodq_config.settings import Settings

#: Who said it: the customer, the model, or a person of the company.
Role = Literal["user", "assistant", "person"]
#: Bytes one turn may have to be read; larger ones nobody of ours has written.
MAX_TURN_BYTES = 1_048_576

# A function of Lua, for the scripts that need it: turns join a conversation, and the oldest make way.
# ``item`` is a piece of JSON that only turns of one item have, or '': of an item that is there nothing joins.
# ``limits`` has turns, characters (of the turns as JSON) and ttl (seconds).
JOIN_LUA = """
local function join_conversation(key, item, turns, limits)
  local kept = redis.pcall('LRANGE', key, 0, -1)
  if kept.err then
    redis.call('DEL', key)
    kept = {}
  end
  for _, turn in ipairs(kept) do
    if item ~= '' and string.find(turn, item, 1, true) then return end
  end
  for _, turn in ipairs(turns) do
    redis.call('RPUSH', key, turn)
    table.insert(kept, turn)
  end
  local from, characters = #kept, 0
  for number = #kept, math.max(1, #kept - limits.turns + 1), -1 do
    local _, continued = string.gsub(kept[number], '[\\128-\\191]', '')
    characters = characters + #kept[number] - continued
    if characters > limits.characters then break end
    from = number
  end
  redis.call('LTRIM', key, from - 1, -1)
  redis.call('EXPIRE', key, limits.ttl)
end
"""


class Turn(Reading):
    """One thing said. ``at``: when the message was sent, or the answer was written; ``item`` is the id of the
    item that it came with, ``labels`` what was judged of a message, by task, ``by`` the person."""

    role: Role
    text: str
    at: Deadline
    item: str | None = None
    labels: dict[str, str] | None = None
    by: str | None = None


class Routed(Reading):
    """A message that a rule has sent to a person: ``results`` has what the tasks said that the rule names,
    ``turns`` the conversation before it; ``reply``: whether the model answers as well; ``at``: when the
    message was sent."""

    v: Literal[1] = 1
    id: str
    route: str
    text: str
    lang: Literal["zh", "en"]
    results: dict[str, Answer]
    reply: bool
    conversation: str | None = None
    turns: tuple[Turn, ...] = ()
    metadata: dict[str, Any] | None = None
    at: Deadline


class Takeover(Reading):
    """A person answers, since ``at``, in place of the model."""

    by: str
    at: Deadline


class Conversation(Reading):
    """``turns`` in order; ``taken_over`` while a person answers."""

    id: str
    turns: tuple[Turn, ...] = ()
    taken_over: Takeover | None = None


@dataclass(frozen=True, slots=True)
class ConversationLimits:
    """What of a conversation is kept, and how long after its last turn; and how many messages wait on a
    route, as long."""

    turns: int = 40
    characters: int = 16_000
    ttl_s: int = 86_400
    routed: int = 10_000

    @classmethod
    def of(cls, settings: Settings) -> ConversationLimits:
        return cls(
            settings.conversation_turns,
            settings.conversation_chars,
            settings.conversation_ttl_s,
            settings.max_routed,
        )

    def as_dict(self) -> dict[str, Any]:
        """As scripts take it."""
        return {
            "turns": self.turns,
            "characters": self.characters,
            "ttl": self.ttl_s,
            "routed": self.routed,
        }


def written(entry: Turn | Routed | Takeover) -> bytes:
    """``entry`` as it stands in Redis."""
    return entry.model_dump_json(exclude_none=True).encode()


def mark(item_id: str) -> str:
    """What only turns of this item have: within a text its quotes would be escaped."""
    return f'"item":"{item_id}"'


def read_turns(values: Iterable[bytes]) -> tuple[Turn, ...]:
    """The turns of a list, in order: messages by when they were sent, answers by when they were written,
    whichever of two under way at once ended first. What is no turn is passed over."""
    turns = []
    for value in values:
        try:
            if len(value) <= MAX_TURN_BYTES:
                turns.append(Turn.model_validate_json(value))
        except ValidationError:
            continue
    return tuple(sorted(turns, key=lambda turn: deadline_at(turn.at)))


def read_takeover(value: bytes | None) -> Takeover | None:
    try:
        return None if value is None else Takeover.model_validate_json(value)
    except ValidationError:
        return Takeover(by="", at="1970-01-01T00:00:00Z")  # written by hand: it silences all the same
