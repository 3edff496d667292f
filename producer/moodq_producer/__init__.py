"""The producer's side: push texts onto the queues, wait for their results.

    from moodq_producer import Client

    with Client() as client:
        ticket = client.submit("太棒了！", tasks=["sentiment", "reply"])
        print(ticket.wait(timeout=60).results["sentiment"].label)

Names are imported when they are first used, so that ``moodq send --help`` loads neither redis nor rq.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from moodq_config.answers import Extracted, GeneratedText, LabelScores, LabelSet, Ranking, Score
    from moodq_config.contracts import RequestItem, Result, ResultStatus
    from moodq_config.errors import (
        BadInput,
        ConfigError,
        ErrorCode,
        ItemFailed,
        MoodqError,
        QueueFull,
        RateLimited,
        Unavailable,
        WaitTimeout,
    )
    from moodq_producer.async_client import AsyncClient
    from moodq_producer.client import Client
    from moodq_producer.following import Event
    from moodq_producer.tickets import AsyncTicket, Ticket

__all__ = [
    "AsyncClient",
    "AsyncTicket",
    "BadInput",
    "ChosenLabel",
    "Client",
    "ConfigError",
    "ErrorCode",
    "Event",
    "Extracted",
    "GeneratedText",
    "ItemFailed",
    "LabelScores",
    "LabelSet",
    "MoodqError",
    "QueueFull",
    "Ranking",
    "RateLimited",
    "RequestItem",
    "Result",
    "ResultStatus",
    "Score",
    "Ticket",
    "Unavailable",
    "WaitTimeout",
]

_HOMES = {
    **dict.fromkeys(
        ("ChosenLabel", "Extracted", "GeneratedText", "LabelScores", "LabelSet", "Ranking", "Score"),
        "moodq_config.answers",
    ),
    **dict.fromkeys(("RequestItem", "Result", "ResultStatus"), "moodq_config.contracts"),
    "AsyncClient": "moodq_producer.async_client",
    "AsyncTicket": "moodq_producer.tickets",
    "Client": "moodq_producer.client",
    "Event": "moodq_producer.following",
    "Ticket": "moodq_producer.tickets",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "moodq_config.errors")), name)


def __dir__() -> list[str]:
    return sorted(__all__)
