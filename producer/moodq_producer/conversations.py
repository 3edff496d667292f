"""Conversations for people: see one, take it over from the model, answer in it, give it back.

``Client.conversations`` and ``AsyncClient.conversations`` are these, over the client's connection. What both
share, scripts and keys, stands first.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError
from redis import Redis
from redis.asyncio import Redis as AsyncRedis

from moodq_config.contracts import ID_PATTERN, clean_text
from moodq_config.conversations import (
    JOIN_LUA,
    Conversation,
    ConversationLimits,
    Routed,
    Takeover,
    Turn,
    read_takeover,
    read_turns,
    written,
)
from moodq_config.errors import BadInput
from moodq_config.names import TAKEOVER_CHANNEL, conversation_key, route_key, takeover_key
from moodq_config.settings import Settings, server_url
from moodq_producer.connection import redis_errors

MAX_NAME_CHARS = 128

# KEYS: takeover. ARGV: the takeover, seconds it lasts, the channel, the conversation's id.
_TAKE_OVER = """
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[4])
"""
# KEYS: conversation and takeover. ARGV: limits, the turn, seconds that a takeover lasts at least.
_SAY = (
    JOIN_LUA
    + """
join_conversation(KEYS[1], '', {ARGV[2]}, cjson.decode(ARGV[1]))
redis.call('EXPIRE', KEYS[2], ARGV[3], 'GT')
"""
)


class Conversations:
    """Every call may raise ``BadInput`` for what is no id, name or text, and ``Unavailable``."""

    def __init__(self, connection: Redis, settings: Settings) -> None:
        self._redis: Any = connection
        self._wording = _Wording(settings)
        self._take_over = connection.register_script(_TAKE_OVER)
        self._say = connection.register_script(_SAY)

    def show(self, id: str) -> Conversation:
        """What was said, and who answers; without turns when nothing was said, or long ago."""
        keys = self._wording.keys(id)
        with self._wording.errors():
            return _conversation(id, self._redis.lrange(keys[0], 0, -1), self._redis.get(keys[1]))

    def take_over(self, id: str, by: str, seconds: int | None = None) -> Takeover:
        """``by`` answers from now on: tasks that say something to the customer are left out, and a reply
        under way stops. Ends by ``release``, or ``seconds`` (``MOODQ_TAKEOVER_TTL_S``) after the last
        ``say``. Who takes over what another has, has it now."""
        takeover, args = self._wording.takeover(id, by, seconds)
        with self._wording.errors():
            self._take_over(keys=[takeover_key(id)], args=args)
        return takeover

    def release(self, id: str) -> bool:
        """The model answers again; False when nobody had taken over."""
        key = self._wording.keys(id)[1]
        with self._wording.errors():
            return bool(self._redis.delete(key))

    def say(self, id: str, text: str, by: str | None = None) -> Turn:
        """A person's answer joins the conversation, whoever answers there otherwise."""
        turn, args = self._wording.said(id, text, by)
        with self._wording.errors():
            self._say(keys=self._wording.keys(id), args=args)
        return turn

    def next_routed(self, route: str, timeout: float | None = None) -> Routed | None:
        """Take the message that has waited longest on ``route``; wait ``timeout`` seconds for one, not at
        all without. It is gone from the list then: whoever must not lose one moves it (docs/protocol.md)."""
        key = route_key(_checked_route(route))
        with self._wording.errors():
            found = self._redis.blpop([key], timeout) if timeout else (key, self._redis.lpop(key))
        return _routed(found)


class AsyncConversations:
    """The same for asyncio. ``connect`` gives the connection."""

    def __init__(self, connect: Callable[[], Awaitable[AsyncRedis]], settings: Settings) -> None:
        self._connect: Callable[[], Awaitable[Any]] = connect
        self._wording = _Wording(settings)

    async def show(self, id: str) -> Conversation:
        """See ``Conversations.show``."""
        keys = self._wording.keys(id)
        with self._wording.errors():
            redis = await self._connect()
            return _conversation(id, await redis.lrange(keys[0], 0, -1), await redis.get(keys[1]))

    async def take_over(self, id: str, by: str, seconds: int | None = None) -> Takeover:
        """See ``Conversations.take_over``."""
        takeover, args = self._wording.takeover(id, by, seconds)
        with self._wording.errors():
            redis = await self._connect()
            await redis.register_script(_TAKE_OVER)(keys=[takeover_key(id)], args=args)
        return takeover

    async def release(self, id: str) -> bool:
        """See ``Conversations.release``."""
        key = self._wording.keys(id)[1]
        with self._wording.errors():
            return bool(await (await self._connect()).delete(key))

    async def say(self, id: str, text: str, by: str | None = None) -> Turn:
        """See ``Conversations.say``."""
        turn, args = self._wording.said(id, text, by)
        with self._wording.errors():
            redis = await self._connect()
            await redis.register_script(_SAY)(keys=self._wording.keys(id), args=args)
        return turn

    async def next_routed(self, route: str) -> Routed | None:
        """See ``Conversations.next_routed``; does not wait."""
        key = route_key(_checked_route(route))
        with self._wording.errors():
            return _routed((key, await (await self._connect()).lpop(key)))


class _Wording:
    """What is sent, checked."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limits = json.dumps(ConversationLimits.of(settings).as_dict())

    def errors(self) -> AbstractContextManager[None]:
        return redis_errors(server_url(self._settings))

    def keys(self, id: str) -> list[str]:
        """Of a conversation's turns and of its takeover."""
        prefix = self._settings.id_prefix
        if not re.fullmatch(ID_PATTERN, id):
            raise BadInput(
                "field 'conversation': send 1 to 128 of A-Z a-z 0-9 _ . -", field="conversation", limit=128
            )
        if not id.startswith(prefix):
            raise BadInput(
                f"field 'conversation': must begin with {prefix!r}, which is MOODQ_ID_PREFIX",
                field="conversation",
            )
        return [conversation_key(id), takeover_key(id)]

    def takeover(self, id: str, by: str, seconds: int | None) -> tuple[Takeover, list[Any]]:
        self.keys(id)
        takeover = Takeover(by=_name(by), at=_now())
        lasts_s = self._settings.takeover_ttl_s if seconds is None else seconds
        if lasts_s < 1:
            raise BadInput("field 'seconds': a takeover lasts 1 second or longer", field="seconds", limit=1)
        return takeover, [written(takeover), lasts_s, TAKEOVER_CHANNEL, id]

    def said(self, id: str, text: str, by: str | None) -> tuple[Turn, list[Any]]:
        self.keys(id)
        cleaned = clean_text(text, self._settings.max_text_chars)
        turn = Turn(role="person", text=cleaned, at=_now(), by=None if by is None else _name(by))
        return turn, [self._limits, written(turn), self._settings.takeover_ttl_s]


def _name(by: str) -> str:
    name = by.strip()
    if not 1 <= len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise BadInput(
            f"field 'by': send a name of 1 to {MAX_NAME_CHARS} printable characters",
            field="by",
            limit=MAX_NAME_CHARS,
        )
    return name


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")


def _checked_route(route: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,63}", route):
        raise BadInput("field 'route': send 1 to 64 of a-z 0-9 _ -, a letter first", field="route")
    return route


def _conversation(id: str, turns: list[bytes], takeover: bytes | None) -> Conversation:
    return Conversation(id=id, turns=read_turns(turns), taken_over=read_takeover(takeover))


def _routed(found: tuple[Any, bytes | None] | None) -> Routed | None:
    """Raises ``BadInput`` for what no worker has written; it is gone from the list."""
    if found is None or found[1] is None:
        return None
    try:
        return Routed.model_validate_json(found[1])
    except ValidationError:
        raise BadInput("an entry of the route's list is no message; it was taken out") from None
