"""Following one item while it is made: its labels, the text of its reply, its end.

Pure: ``client`` and ``async_client`` read the item's event stream and hand the replies over.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from moodq_config.answers import Judgement
from moodq_config.contracts import Result
from moodq_config.names import events_key
from moodq_producer.waiting import parse_result

_LABELS = TypeAdapter(dict[str, Judgement])


class _Token(BaseModel):
    task: str
    text: str


class _Route(BaseModel):
    route: str


@dataclass(frozen=True, slots=True)
class Event:
    """``kind`` says which fields count: ``labels`` by task, the ``route`` by which a person gets it, ``text``
    made by ``task``, or ``result``."""

    kind: Literal["label", "route", "token", "done"]
    labels: dict[str, Judgement] = field(default_factory=dict)
    task: str = ""
    text: str = ""
    result: Result | None = None
    route: str = ""


class Following:
    """Where one reader stands in an item's event stream. ``ended`` once the result has come."""

    def __init__(self, id: str) -> None:
        self._id = id
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
                event = _event(fields, self._id)
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
        return [Event("done", result=parse_result(value, self._id))]


def _event(fields: dict[bytes, bytes], id: str) -> Event | None:
    """None for what this version cannot read: the result holds all that the events before it tell. A result
    that cannot be read raises ``BadInput``."""
    kind, data = fields.get(b"event"), fields.get(b"data", b"")
    if kind == b"done":
        return Event("done", result=parse_result(data, id))
    try:
        if kind == b"label":
            return Event("label", labels=_LABELS.validate_json(data))
        if kind == b"route":
            return Event("route", route=_Route.model_validate_json(data).route)
        if kind == b"token":
            token = _Token.model_validate_json(data)
            return Event("token", task=token.task, text=token.text)
    except ValidationError:
        return None
    return None
