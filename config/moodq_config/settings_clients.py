"""What a producer's client does when Redis is away or has no room: part of ``settings.Settings``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings


class ClientSettings(BaseSettings):
    """How long a client goes on trying, with growing pauses of random length."""

    away_timeout_s: float = Field(
        30.0,
        ge=0.0,
        le=3_600.0,
        description="seconds a client lives with a Redis that is away while it sends or waits, before it "
        "gives up; 0: it gives up at once",
    )
    on_full: Literal["raise", "wait"] = Field(
        "raise",
        description="what a client does at a full queue or a used-up rate, where the call does not say",
    )
    full_timeout_s: float = Field(
        60.0,
        ge=0.0,
        le=86_400.0,
        description="seconds without room after which a client that waits by MOODQ_ON_FULL gives up",
    )
