"""Labels pinned to templates: written here, read by workers. ``moodq_config.templates`` has their form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis import Redis

from moodq_config.errors import BadInput, ErrorCode
from moodq_config.names import PINS_KEY, PINS_REVISION_KEY
from moodq_config.task_kinds import LabelTask
from moodq_config.tasks import TaskSet
from moodq_config.templates import MAX_PINNED_CHARS, MAX_PINS, pin_field, read_pins, template

#: Fields one command writes.
AT_ONCE = 500


@dataclass(frozen=True, slots=True, order=True)
class Pin:
    task: str
    template: str
    label: str


def make_pin(tasks: TaskSet, task: str, text: str, label: str) -> Pin:
    """Pin ``label`` to the template of ``text``, a line of its kind or the template itself.

    Raises ``BadInput`` (unknown_task, invalid_field, empty_text, text_too_long).
    """
    found = tasks.get(task)
    if not isinstance(found, LabelTask):
        names = ", ".join(one.name for one in tasks.labels())
        raise BadInput(f"{task!r} is not a label task; these are: {names}", code=ErrorCode.UNKNOWN_TASK)
    if label not in found.labels:
        raise BadInput(f"{label!r} is not a label of {task!r}; these are: {', '.join(found.labels)}")
    masked = template(text.strip())
    if not masked:
        raise BadInput("the template is empty; give a line of its kind", code=ErrorCode.EMPTY_TEXT)
    if len(masked) > MAX_PINNED_CHARS:
        raise BadInput(
            f"the template has {len(masked)} characters, the limit is {MAX_PINNED_CHARS}; pin shorter ones",
            code=ErrorCode.TEXT_TOO_LONG,
        )
    return Pin(task, masked, label)


def stored_pins(connection: Redis) -> list[Pin]:
    """All that are pinned, sorted. May raise ``RedisError``."""
    server: Any = connection
    return sorted(
        Pin(task, masked, label)
        for (task, masked), label in read_pins(server.hscan_iter(PINS_KEY, count=AT_ONCE)).items()
    )


def store_pins(connection: Redis, pins: Sequence[Pin]) -> None:
    """Pin them; workers heed it from their next claim on. May raise ``RedisError``, and ``BadInput`` when
    there would be too many."""
    server: Any = connection
    fields = {pin_field(pin.task, pin.template): pin.label for pin in pins}
    known = set(read_pins(server.hscan_iter(PINS_KEY, count=AT_ONCE)))
    count = len(known | {(pin.task, pin.template) for pin in pins})
    if count > MAX_PINS:
        raise BadInput(f"that would make {count} pinned labels, the limit is {MAX_PINS}; unpin some")
    with server.pipeline(transaction=True) as pipe:
        for some in _some(list(fields.items())):
            pipe.hset(PINS_KEY, mapping=dict(some))
        pipe.incr(PINS_REVISION_KEY)
        pipe.execute()


def drop_pins(connection: Redis, pins: Sequence[tuple[str, str]]) -> int:
    """Unpin templates, each with its task; returns how many were pinned. May raise ``RedisError``."""
    server: Any = connection
    with server.pipeline(transaction=True) as pipe:
        for some in _some([pin_field(task, masked) for task, masked in pins]):
            pipe.hdel(PINS_KEY, *some)
        pipe.incr(PINS_REVISION_KEY)
        *dropped, _ = pipe.execute()
    return sum(dropped)


def _some(values: list[Any]) -> Iterable[list[Any]]:
    return (values[start : start + AT_ONCE] for start in range(0, len(values), AT_ONCE))
