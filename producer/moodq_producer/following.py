"""Following one item while it is made: its labels, the text of its reply, its end.

Pure: ``client`` and ``async_client`` read the item's event stream and hand the replies over.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Literal

from moodq_config.contracts import LabelScores, Result
from moodq_config.names import events_key
from moodq_producer.waiting import parse_result


@dataclass(frozen=True, slots=True)
class Event:
    """``kind`` says which fields count: ``labels`` by task, ``text`` made by ``task``, or ``result``."""

    kind: Literal["label", "token", "done"]
    labels: dict[str, LabelScores] = field(default_factory=dict)
    task: str = ""
    text: str = ""
    result: Result | None = None


class Following:
    """Where one reader stands in an item's event stream. ``ended`` once the result has come."""

    def __init__(self, id: str) -> None:
        self._key = events_key(id)
        self._last = "0-0"
        self.ended = False

    @property
    def streams(self) -> dict[Any, Any]:
        """The stream and the last entry seen, as XREAD takes them."""
        return {self._key: self._last}

    @property
    def at_start(self) -> bool:
        return self._last == "0-0"

    def arrived(self, reply: Any) -> list[Event]:
        """Take the reply of an XREAD. Events of a kind this version does not know are passed over."""
        events = []
        for _, entries in reply or ():
            for entry_id, fields in entries:
                self._last = entry_id.decode()
                event = _event(fields)
                if event is not None:
                    events.append(event)
                if event is not None and event.kind == "done":
                    self.ended = True
                    return events
        return events

    def fetched(self, value: bytes | str | None) -> list[Event]:
        """Take what GET found for the result, when the stream was empty."""
        if value is None:
            return []
        self.ended = True
        return [Event("done", result=parse_result(value))]


def _event(fields: dict[bytes, bytes]) -> Event | None:
    kind, data = fields.get(b"event"), fields.get(b"data", b"")
    if kind == b"done":
        return Event("done", result=parse_result(data))
    if kind == b"label":
        found = json.loads(data)
        return Event("label", labels={task: LabelScores.model_validate(each) for task, each in found.items()})
    if kind == b"token":
        found = json.loads(data)
        return Event("token", task=str(found["task"]), text=str(found["text"]))
    return None
