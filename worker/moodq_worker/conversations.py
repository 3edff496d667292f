"""What was said before: read with the claimed items' other look-ups, and made ready for their replies.

Part of ``intake``. An item knows what its conversation holds when it is claimed; of two under way at once
neither knows the other. ``rq_finish`` writes what they add.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from redis.client import Pipeline

from moodq_config.conversations import ConversationLimits, Turn, read_turns
from moodq_config.names import conversation_key, takeover_key
from moodq_worker.items import Item

#: Tokens a chat template puts around each turn.
TURN_TOKENS = 5


class Conversations:
    """Used from the intake's thread only. ``max_tokens``: what a reply's prompt gets of a conversation."""

    def __init__(self, limits: ConversationLimits, *, max_tokens: int) -> None:
        self._turns = limits.turns
        self._max_tokens = max_tokens

    @staticmethod
    def of(items: Sequence[Item]) -> dict[str, list[Item]]:
        """Those of ``items`` that answer in a conversation, or that rules may send to a person, by its id."""
        found: dict[str, list[Item]] = {}
        for item in items:
            if item.conversation is not None and item.error is None and (item.answering or item.tasks.routes):
                found.setdefault(item.conversation, []).append(item)
        return found

    def ask(self, pipe: Pipeline, conversations: dict[str, list[Item]]) -> None:
        """Queue the look-up of all of them; its answers are for ``take``."""
        if conversations:
            pipe.mget(map(takeover_key, conversations))
        for id in conversations:
            pipe.lrange(conversation_key(id), -self._turns, -1)

    @staticmethod
    def take(conversations: dict[str, list[Item]], answers: Sequence[Any]) -> None:
        """Tell every item what was said, and whether a person answers. What is no list holds no
        conversation."""
        if not conversations:
            return
        takeovers, *lists = answers
        for items, taken_over, values in zip(conversations.values(), takeovers, lists, strict=True):
            said = read_turns(values) if isinstance(values, list) else ()
            for item in items:
                item.said = said
                if taken_over is not None:
                    item.taken_over = True
                    item.silence("taken_over")
                    item.plan_again()

    @staticmethod
    def replies(conversations: dict[str, list[Item]]) -> int:
        """How many answers ``ask`` leads to."""
        return len(conversations) + 1 if conversations else 0

    def encode(self, items: Sequence[Item], encode: Callable[[Sequence[str]], list[list[int]]]) -> None:
        """The tokens of what their prompts get: the latest turns, from a customer's message on."""
        for item in items:
            if not item.said or not item.generates_todo or not self._max_tokens:
                continue
            said = alternating(item.said)
            tokens = encode(said)
            total = sum(map(len, tokens)) + TURN_TOKENS * len(tokens)
            first = 0
            while first < len(tokens) and total > self._max_tokens:
                gone = tokens[first : first + 2]  # a message goes with its answer
                total -= sum(map(len, gone)) + TURN_TOKENS * len(gone)
                first += 2
            item.earlier, item.history = tuple(said[first:]), tuple(tokens[first:])


def alternating(turns: Sequence[Turn]) -> list[str]:
    """The texts of ``turns`` as a chat has them: a customer's message, its answer, and so on. What one side
    said in several turns is one text, in lines; what comes before the first message is left out. A message
    without its answer ends with a line break: the new one follows it."""
    texts: list[str] = []
    for turn in turns:
        of_customer = turn.role == "user"
        if of_customer != bool(len(texts) % 2):
            texts.append(turn.text)
        elif texts:
            texts[-1] += f"\n{turn.text}"
    if len(texts) % 2:
        texts[-1] += "\n"
    return texts
