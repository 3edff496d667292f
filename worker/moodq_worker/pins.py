"""Labels that people have pinned to templates: a text of such a kind is answered without the model.

Kept in memory, and read anew when their revision in Redis has changed: that is asked along with every
look-up, so a pin holds from the next claim on, in every worker.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from redis import Redis
from redis.client import Pipeline

from moodq_config.contracts import LabelScores
from moodq_config.names import PINS_KEY, PINS_REVISION_KEY
from moodq_config.task_kinds import LabelTask
from moodq_config.tasks import TaskSet
from moodq_config.templates import MAX_PINS, read_pins, template

log = logging.getLogger(__name__)


class Pins:
    """Used from the intake's thread only."""

    def __init__(self, connection: Redis) -> None:
        self._connection: Any = connection
        self._revision: bytes | None = None
        self._pinned: dict[tuple[str, str], str] = {}

    @staticmethod
    def ask(pipe: Pipeline) -> None:
        """Queue the look-up of the revision; its answer is for ``refresh``."""
        pipe.get(PINS_REVISION_KEY)

    def refresh(self, revision: bytes | None) -> None:
        """Read the pins if they are of another revision. May raise ``RedisError``."""
        if revision == self._revision:
            return
        count = self._connection.hlen(PINS_KEY)
        if count > MAX_PINS:
            log.warning("%d labels are pinned, the limit is %d: none is used", count, MAX_PINS)
            self._pinned = {}
        else:
            self._pinned = read_pins(self._connection.hgetall(PINS_KEY))
            log.info("%d labels are pinned to templates", len(self._pinned))
        self._revision = revision

    def answers(self, text: str, names: Sequence[str], tasks: TaskSet) -> list[tuple[str, LabelScores]]:
        """The pinned labels of ``text`` for those of ``names``, tasks of ``tasks``, that have one. A pin of
        a label that its task does not have (any more) is passed over."""
        if not self._pinned or not names:
            return []
        masked = template(text)
        found = []
        for name in names:
            task, label = tasks[name], self._pinned.get((name, masked))
            if label is not None and isinstance(task, LabelTask) and label in task.labels:
                scores = dict.fromkeys(task.labels, 0.0) | {label: 1.0}
                found.append((name, LabelScores(label=label, probability=1.0, scores=scores)))
        return found
