"""Settings of conversations, and of the people who take part in them: part of ``settings.Settings``."""

from __future__ import annotations

from pydantic import Field
from pydantic_settings import BaseSettings


class ConversationSettings(BaseSettings):
    """How much of a conversation is kept and read, and how long a takeover lasts."""

    conversation_ttl_s: int = Field(
        86_400, ge=10, le=2_592_000, description="seconds a conversation is kept after its last turn"
    )
    conversation_turns: int = Field(
        40, ge=2, le=1_000, description="turns of a conversation that are kept; the oldest go first"
    )
    conversation_chars: int = Field(
        16_000,
        ge=1_000,
        le=1_000_000,
        description="characters that the turns of a conversation may have together, as JSON",
    )
    conversation_tokens: int = Field(
        512,
        ge=0,
        le=8_192,
        description="tokens of a conversation that a reply's prompt may have before the new message; "
        "the oldest turns are left out; 0: replies know no history",
    )
    max_routed: int = Field(
        10_000,
        ge=1,
        le=10_000_000,
        description="messages that wait for people on one route at most; the oldest go first",
    )
    takeover_ttl_s: int = Field(
        3_600,
        ge=10,
        le=2_592_000,
        description="seconds after a person's last word at which a takeover ends by itself",
    )
