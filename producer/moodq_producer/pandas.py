"""A column of texts to columns of answers: ``tag(frame, column="review")``.

Goes the way of ``moodq tag``: jobs of many texts on the queue ``bulk``, equal texts sent once, in a window
that does not grow with the frame. Needs the extra: pip install 'moodq[pandas]'.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from uuid import uuid4

import pandas as pd

from moodq_config.answers import (
    Answer,
    ChosenLabel,
    Extracted,
    GeneratedText,
    LabelScores,
    LabelSet,
    Ranking,
    Score,
)
from moodq_config.contracts import Result
from moodq_config.errors import BadInput, ConfigError, ErrorCode
from moodq_config.names import BULK
from moodq_config.settings import Settings
from moodq_producer.bulk.rows import Row
from moodq_producer.bulk.tagging import Plan, Tagging
from moodq_producer.client import Client

__all__ = ["Progress", "tag"]

#: Hears how many texts are done, and of how many.
Progress = Callable[[int, int], None]

#: Results that are deleted from Redis at once, when their answers are in the frame.
FORGET_EVERY = 1_000
#: Rows between two calls of a ``Progress``.
TELL_EVERY = 100


def tag(
    data: pd.Series[Any] | pd.DataFrame,
    tasks: Sequence[str] | str = "sentiment",
    *,
    column: str | None = None,
    client: Client | Settings | str | None = None,
    queue: str = BULK,
    lang: str | None = None,
    scores: bool = False,
    dedupe: bool = True,
    progress: bool | Progress = False,
    idle_timeout: float | None = 300.0,
) -> pd.DataFrame:
    """The answers to each text of a series, or of a frame's column ``column``, in a new frame of the same
    index.

    Of a task that labels there are the columns ``TASK`` (categorical) and ``TASK_probability``, with
    ``scores`` also ``TASK_score_LABEL``; of any other kind ``TASK``: a number, a text, JSON, or the labels
    that hold, as a tuple. ``error`` has the code of a row that failed, whose other columns are missing; a
    missing value is an ``empty_text``. ``client`` may be one of yours, or what makes one; ``progress`` a
    function, or True for a bar on a terminal.

    Raises ``ConfigError``, ``BadInput`` for tasks that need more than a text, ``Unavailable``, and
    ``WaitTimeout`` after ``idle_timeout`` seconds without any result.
    """
    texts = _texts(data, column)
    names = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    owned: AbstractContextManager[Client] = (
        nullcontext(client) if isinstance(client, Client) else Client(client)
    )
    with owned as used, _telling(progress, len(texts)) as tell:
        used.check("a text", names, lang=lang)
        plan = Plan(names, uuid4().hex, queue, lang, dedupe=dedupe, idle_timeout_s=idle_timeout)
        columns = _Columns(names, len(texts), scores=scores)
        done: list[str] = []
        for number, tagged in enumerate(Tagging(used, _rows(texts), plan), 1):
            columns.add(tagged.result)
            done.append(tagged.result.id)
            if len(done) == FORGET_EVERY:
                used.forget(done)
                done.clear()
            if number % TELL_EVERY == 0 or number == len(texts):
                tell(number, len(texts))
        used.forget(done)
    return columns.frame(texts.index)


def _texts(data: pd.Series[Any] | pd.DataFrame, column: str | None) -> pd.Series[Any]:
    if isinstance(data, pd.Series):
        return data
    if column is None:
        raise ConfigError(f"a frame has several columns: name the one of the texts ({_names(data.columns)})")
    if column not in data.columns:
        raise ConfigError(f"the frame has no column {column!r}; it has {_names(data.columns)}")
    found = data[column]
    if isinstance(found, pd.DataFrame):
        raise ConfigError(f"the frame has {found.shape[1]} columns of the name {column!r}; send one of them")
    return found


def _names(columns: Iterable[object]) -> str:
    return ", ".join(map(repr, columns))


def _rows(texts: pd.Series[Any]) -> Iterator[Row]:
    for number, value in enumerate(texts):
        error = None
        if not isinstance(value, str):
            missing = pd.api.types.is_scalar(value) and pd.isna(value)
            code = ErrorCode.EMPTY_TEXT if missing else ErrorCode.INVALID_FIELD
            error = BadInput(f"row {number} is {'missing' if missing else type(value).__name__}", code=code)
        yield Row(number, "", number + 1, value if error is None else "", error=error)


class _Columns:
    """The answers by task and column, a value a row; None where there is none."""

    def __init__(self, tasks: Sequence[str], rows: int, *, scores: bool) -> None:
        self._scores = scores
        self._rows = rows
        self._done = 0
        self._values: dict[str, dict[str, list[Any]]] = {task: {} for task in tasks}
        self._types: dict[str, str] = {}
        self._errors: list[str | None] = [None] * rows

    def add(self, result: Result) -> None:
        """Take the result of the next row."""
        if result.error is not None:
            self._errors[self._done] = result.error.code
        for task, columns in self._values.items():
            if (answer := result.results.get(task)) is not None:
                for name, value, kind in self._cells(task, answer):
                    self._types[name] = kind
                    columns.setdefault(name, [None] * self._rows)[self._done] = value
        self._done += 1

    def frame(self, index: pd.Index[Any]) -> pd.DataFrame:
        columns: dict[str, pd.Series[Any]] = {}
        for task, found in self._values.items():
            # Without any answer the column is there all the same.
            for name, values in (found or {task: [None] * self._rows}).items():
                columns[name] = pd.Series(values, index, dtype=self._types.get(name, "object"))
        columns["error"] = pd.Series(self._errors, index, dtype="string")
        return pd.DataFrame(columns, index=index)

    def _cells(self, task: str, answer: Answer) -> Iterator[tuple[str, Any, str]]:
        """Name, value and type of each column that an answer fills."""
        match answer:
            case LabelScores():
                yield task, answer.label, "category"
                yield f"{task}_probability", answer.probability, "float64"
                yield from self._all_scores(task, answer.scores)
            case ChosenLabel():
                yield task, answer.label, "category"
            case LabelSet():
                yield task, answer.labels, "object"
                yield from self._all_scores(task, answer.scores)
            case Score():
                yield task, answer.score, "float64"
            case GeneratedText():
                yield task, answer.text, "string"
            case Extracted():
                yield task, answer.data, "object"
            case Ranking():
                yield task, answer.ranking, "object"

    def _all_scores(self, task: str, scores: dict[str, float]) -> Iterator[tuple[str, float, str]]:
        if self._scores:
            for label, score in scores.items():
                yield f"{task}_score_{label}", score, "float64"


@contextmanager
def _telling(progress: bool | Progress, total: int) -> Iterator[Progress]:
    if not progress:
        yield lambda done, total: None
    elif callable(progress):
        yield progress
    else:
        from rich.console import Console
        from rich.progress import Progress as Bar

        screen = Console(stderr=True)
        with Bar(console=screen, disable=not screen.is_terminal) as bar:
            task = bar.add_task("tagging", total=total)
            yield lambda done, total: bar.update(task, completed=done)
