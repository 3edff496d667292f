"""Task definitions: what the model is asked, read from TOML and checked before any model is loaded.

A prompt has three parts: a fixed part before the text (system prompt and examples: in the KV cache from
the task's first request on), the text, and a short part after it. Edit ``tasks.toml``, or overlay it with a
file of your own (``MOODQ_TASKS_FILE``). ``task_kinds`` has what can be defined, ``task_loading`` reads it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from itertools import chain
from pathlib import Path

from moodq_config.contracts import NEEDS_DOCUMENTS, NEEDS_LABELS
from moodq_config.errors import ConfigError, ErrorCode
from moodq_config.routes import Route, Routes, unfit_routes
from moodq_config.task_kinds import (
    LANGS,
    ChooseTask,
    ExtractTask,
    GeneratePrompt,
    GenerateTask,
    JudgeTask,
    LabelPrompt,
    LabelTask,
    Lang,
    MultilabelTask,
    RerankTask,
    ScoreTask,
    Task,
    WriteTask,
)
from moodq_config.task_loading import located, parse_file, parse_tasks

__all__ = [
    "LANGS",
    "ChooseTask",
    "ExtractTask",
    "GeneratePrompt",
    "GenerateTask",
    "JudgeTask",
    "LabelPrompt",
    "LabelTask",
    "Lang",
    "MultilabelTask",
    "RerankTask",
    "ScoreTask",
    "Task",
    "TaskSet",
    "WriteTask",
    "detect_lang",
    "load_tasks",
]

_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")


class TaskSet(Mapping[str, Task]):
    """The tasks by name, and the routes, checked as a whole. ``revision`` changes with any edit; sets of one
    revision are equal."""

    def __init__(self, tasks: Mapping[str, Task], routes: tuple[Route, ...] = ()) -> None:
        self._tasks = dict(tasks)
        self.routes = Routes(routes)
        for message in chain(unfit(self._tasks), unfit_routes(routes, self._tasks)):
            raise ConfigError(message, code=ErrorCode.TASKS_INVALID)
        self._dumped = {name: task.model_dump_json() for name, task in sorted(self._tasks.items())}
        self.revision = _digest([*self._dumped.values(), *(route.model_dump_json() for route in routes)])
        self._revisions = {
            name: _digest(self._dumped[other] for other in self._asked_by(name)) for name in self
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TaskSet) and other.revision == self.revision

    def __hash__(self) -> int:
        return hash(self.revision)

    def __getitem__(self, name: str) -> Task:
        return self._tasks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def revision_of(self, name: str) -> str:
        """Changes with any edit of the task, or of another that its answers depend on."""
        return self._revisions[name]

    def labels(self) -> list[LabelTask]:
        return [task for task in self._tasks.values() if isinstance(task, LabelTask)]

    def generates(self) -> list[GenerateTask]:
        return [task for task in self._tasks.values() if isinstance(task, GenerateTask)]

    def extracts(self) -> list[ExtractTask]:
        return [task for task in self._tasks.values() if isinstance(task, ExtractTask)]

    @property
    def needs(self) -> dict[str, str]:
        """Which field an item must have, beside its text, for the tasks that need one."""
        kinds = {ChooseTask: NEEDS_LABELS, RerankTask: NEEDS_DOCUMENTS}
        return {name: kinds[type(task)] for name, task in self._tasks.items() if type(task) in kinds}

    def computed_with(self, name: str, others: Sequence[str]) -> tuple[str, ...]:
        """Judging task ``name`` and those of ``others`` that one pass over a text answers with it."""
        if not self._asks_after_text(name):
            return (name,)
        return (name, *(other for other in others if other != name and self._asks_after_text(other)))

    def label_task(self, name: str) -> LabelTask:
        task = self._tasks[name]
        if not isinstance(task, LabelTask):
            raise TypeError(f"{name} is not a label task")
        return task

    def write_task(self, name: str) -> WriteTask:
        task = self._tasks[name]
        if not isinstance(task, WriteTask):
            raise TypeError(f"{name} writes nothing")
        return task

    def _asked_by(self, name: str) -> list[str]:
        """The tasks whose definitions are part of the prompt of ``name``, itself included."""
        task = self._tasks[name]
        if isinstance(task, GenerateTask) and task.after:
            return [name, *self._asked_by(task.after)]
        if self._asks_after_text(name):
            return [name, *(other for other in self._tasks if self._asks_after_text(other))]
        return [name]

    def _asks_after_text(self, name: str) -> bool:
        task = self._tasks[name]
        return isinstance(task, LabelTask) and task.layout == "text_first"


def load_tasks(overlay: Path | None = None, check: Callable[[TaskSet], None] | None = None) -> TaskSet:
    """The shipped tasks, overlaid by the tasks of ``overlay``. ``check`` may raise ``ConfigError`` too, with
    the field first in its message. Raises ``ConfigError`` (tasks_invalid) naming file, line and field."""
    tasks = dict(shipped_tasks())
    routes: tuple[Route, ...] = ()
    text = ""
    if overlay is not None:
        text = read_text(overlay)
        found = parse_file(text, str(overlay))
        tasks |= found.tasks
        routes = found.routes
    try:
        checked = TaskSet(tasks, routes)
        if check is not None:
            check(checked)
    except ConfigError as error:
        [fault] = located([error.message], text)
        raise ConfigError(fault.told(str(overlay or "tasks.toml")), code=error.code) from None
    return checked


def unfit(tasks: Mapping[str, Task]) -> Iterator[str]:
    """What tasks, each in order by itself, say of one another that does not fit."""
    for task in tasks.values():
        if isinstance(task, GenerateTask) and task.after:
            judge = tasks.get(task.after)
            if not isinstance(judge, LabelTask):
                labels = ", ".join(name for name, other in tasks.items() if isinstance(other, LabelTask))
                yield f"tasks.{task.name}.after: {task.after!r} is not a label task; these are: {labels}"
                continue
            for lang, prompt in task.prompt.items():
                if prompt.steer and set(prompt.steer) != set(judge.labels):
                    yield (
                        f"tasks.{task.name}.prompt.{lang}.steer must have exactly the labels "
                        f"{list(judge.labels)} of {judge.name!r}"
                    )


def read_text(path: Path) -> str:
    """A tasks file as text. Raises ``ConfigError`` (tasks_invalid)."""
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"MOODQ_TASKS_FILE: cannot read {path}: {error}", code=ErrorCode.TASKS_INVALID
        ) from error


def detect_lang(text: str) -> Lang:
    """``zh`` when at least a tenth of the letters are CJK ideographs, else ``en``: Chinese messages often
    carry Latin names, English ones hardly ever carry ideographs."""
    if text.isascii():
        return "en"
    ideographs = len(_IDEOGRAPH.findall(text))
    return "zh" if ideographs and ideographs * 10 >= sum(map(str.isalpha, text)) else "en"


def _digest(dumped: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(dumped).encode()).hexdigest()[:12]


@cache
def shipped_tasks() -> Mapping[str, Task]:
    """Those of the file that comes with moodq, by name."""
    text = resources.files("moodq_config").joinpath("tasks.toml").read_text("utf-8")
    return parse_tasks(text, "tasks.toml")
