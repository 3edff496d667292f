"""Task definitions: what the model is asked, read from TOML and checked before any model is loaded.

A prompt has three parts: a fixed part before the text (system prompt and examples: in the KV cache from
the first request on), the text, and a short fixed part after it. Edit ``tasks.toml``, or overlay it with a
file of your own (``MOODQ_TASKS_FILE``).
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    ValidationError,
    model_validator,
)

from moodq_config.contracts import TaskName
from moodq_config.errors import ConfigError, ErrorCode

Lang = Literal["zh", "en"]
_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
LANGS: tuple[Lang, ...] = ("zh", "en")

NonEmpty = Annotated[str, StringConstraints(min_length=1, max_length=4_000)]
Label = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f]{1,64}$")]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LabelExample(_Frozen):
    text: NonEmpty
    label: Label


class LabelPrompt(_Frozen):
    """``words`` maps each label to what the model would say for it in this language.

    ``bias`` is added to a label's log-probability before they are normalised: it corrects a model that
    leans to one side. ``user`` must hold ``{text}`` once. ``ask`` is what the answer of a ``text_first`` task
    begins with, before the word: short, for it is computed for every text.
    """

    system: NonEmpty
    user: NonEmpty = "{text}"
    ask: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    words: dict[Label, NonEmpty]
    bias: dict[Label, FiniteFloat] = Field(default_factory=dict)
    examples: tuple[LabelExample, ...] = ()


class ReplyExample(_Frozen):
    text: NonEmpty
    reply: NonEmpty


class GeneratePrompt(_Frozen):
    """``steer`` maps a label of the task named in ``after`` to a sentence added to the system prompt."""

    system: NonEmpty
    user: NonEmpty = "{text}"
    steer: dict[Label, NonEmpty] = Field(default_factory=dict)
    examples: tuple[ReplyExample, ...] = ()


class LabelTask(_Frozen):
    """Choose among ``labels``: one forward pass, no generation, nothing but a label can come out.

    ``layout`` says where the instruction stands. ``instruction_first``: before the text, in a prompt of the
    task's own; labels are best so. ``text_first``: all tasks of this layout share one prompt that names them
    all, and ask after the text with ``ask``; a text with several of them is computed once.

    ``cache``: ``exact`` answers the same text again from Redis; ``template`` also a text that differs only in
    numbers, addresses, ids and dates, as log lines do; ``off`` neither.
    """

    name: TaskName
    kind: Literal["label"]
    description: str = ""
    layout: Literal["instruction_first", "text_first"] = "instruction_first"
    cache: Literal["off", "exact", "template"] = "exact"
    labels: tuple[Label, ...] = Field(min_length=2, max_length=64)
    prompt: dict[Lang, LabelPrompt]

    @model_validator(mode="after")
    def _consistent(self) -> LabelTask:
        for lang in LANGS:
            if lang not in self.prompt:
                raise ValueError(f"prompt.{lang} is missing; every task speaks zh and en")
            prompt = self.prompt[lang]
            _one_placeholder(f"prompt.{lang}.user", prompt.user)
            if (self.layout == "text_first") != (prompt.ask is not None):
                raise ValueError(f'prompt.{lang}.ask goes with layout = "text_first", and that needs it')
            if self.layout == "text_first" and prompt.user != "{text}":
                raise ValueError(f"prompt.{lang}.user: text_first tasks share a prompt; leave it out")
            if set(prompt.words) != set(self.labels):
                raise ValueError(f"prompt.{lang}.words must have exactly the labels {list(self.labels)}")
            if len(set(prompt.words.values())) != len(prompt.words):
                raise ValueError(f"prompt.{lang}.words must differ from each other")
            for label in [*prompt.bias, *(example.label for example in prompt.examples)]:
                if label not in self.labels:
                    raise ValueError(
                        f"prompt.{lang} names {label!r}, which is not one of {list(self.labels)}"
                    )
        return self


class GenerateTask(_Frozen):
    """Write text. ``after`` names a label task that is run first on the same text and steers the prompt."""

    name: TaskName
    kind: Literal["generate"]
    #: ``exact`` gives the same text the same answer again; a service desk may not want that.
    cache: Literal["off", "exact"] = "off"
    description: str = ""
    after: str | None = None
    max_new_tokens: int = Field(96, ge=1, le=1_024)
    repetition_penalty: float = Field(1.0, ge=1.0, le=2.0)
    prompt: dict[Lang, GeneratePrompt]

    @model_validator(mode="after")
    def _consistent(self) -> GenerateTask:
        for lang in LANGS:
            if lang not in self.prompt:
                raise ValueError(f"prompt.{lang} is missing; every task speaks zh and en")
            _one_placeholder(f"prompt.{lang}.user", self.prompt[lang].user)
            if self.prompt[lang].steer and not self.after:
                raise ValueError(f"prompt.{lang}.steer needs `after`, the label task it listens to")
        return self


Task = LabelTask | GenerateTask


class TaskSet(Mapping[str, Task]):
    """The tasks by name, checked as a whole. ``revision`` changes with any edit."""

    def __init__(self, tasks: Mapping[str, Task]) -> None:
        self._tasks = dict(tasks)
        for task in self._tasks.values():
            if isinstance(task, GenerateTask) and task.after:
                judge = self._tasks.get(task.after)
                if not isinstance(judge, LabelTask):
                    raise ConfigError(
                        f"tasks.{task.name}.after: {task.after!r} is not a label task",
                        code=ErrorCode.TASKS_INVALID,
                    )
                for lang, prompt in task.prompt.items():
                    if prompt.steer and set(prompt.steer) != set(judge.labels):
                        raise ConfigError(
                            f"tasks.{task.name}.prompt.{lang}.steer must have exactly the labels "
                            f"{list(judge.labels)} of {judge.name!r}",
                            code=ErrorCode.TASKS_INVALID,
                        )
        dumped = "\n".join(task.model_dump_json() for _, task in sorted(self._tasks.items()))
        self.revision = hashlib.sha256(dumped.encode()).hexdigest()[:12]

    def __getitem__(self, name: str) -> Task:
        return self._tasks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tasks)

    def __len__(self) -> int:
        return len(self._tasks)

    def labels(self) -> list[LabelTask]:
        return [task for task in self._tasks.values() if isinstance(task, LabelTask)]

    def generates(self) -> list[GenerateTask]:
        return [task for task in self._tasks.values() if isinstance(task, GenerateTask)]

    def computed_with(self, name: str, others: Sequence[str]) -> tuple[str, ...]:
        """Label task ``name`` and those of ``others`` that one pass over a text answers with it."""
        if self.label_task(name).layout != "text_first":
            return (name,)
        return (
            name,
            *(other for other in others if other != name and self.label_task(other).layout == "text_first"),
        )

    def label_task(self, name: str) -> LabelTask:
        task = self._tasks[name]
        if not isinstance(task, LabelTask):
            raise TypeError(f"{name} is not a label task")
        return task


def load_tasks(overlay: Path | None = None) -> TaskSet:
    """The shipped tasks, overlaid by the tasks of ``overlay``. Raises ``ConfigError`` (tasks_invalid)."""
    tasks = dict(_shipped())
    if overlay is not None:
        try:
            text = overlay.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"MOODQ_TASKS_FILE: cannot read {overlay}: {error}", code=ErrorCode.TASKS_INVALID
            ) from error
        tasks |= _parse(text, str(overlay))
    try:
        return TaskSet(tasks)
    except ConfigError as error:
        raise ConfigError(f"{overlay or 'tasks.toml'}: {error.message}", code=error.code) from None


def detect_lang(text: str) -> Lang:
    """``zh`` when at least a tenth of the letters are CJK ideographs, else ``en``: Chinese messages often
    carry Latin names, English ones hardly ever carry ideographs."""
    if text.isascii():
        return "en"
    ideographs = len(_IDEOGRAPH.findall(text))
    return "zh" if ideographs and ideographs * 10 >= sum(map(str.isalpha, text)) else "en"


@cache
def _shipped() -> Mapping[str, Task]:
    text = resources.files("moodq_config").joinpath("tasks.toml").read_text("utf-8")
    return _parse(text, "tasks.toml")


def _parse(text: str, source: str) -> dict[str, Task]:
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also of numbers and nesting beyond what Python reads
        raise ConfigError(f"{source}: {error}", code=ErrorCode.TASKS_INVALID) from None
    tables = document.get("tasks")
    if not isinstance(tables, dict) or set(document) != {"tasks"}:
        raise ConfigError(
            f"{source}: the file must hold only [tasks.<name>] tables", code=ErrorCode.TASKS_INVALID
        )
    return {name: _parse_task(name, table, source) for name, table in tables.items()}


def _parse_task(name: str, table: Any, source: str) -> Task:
    if isinstance(table, dict) and "name" in table:
        raise ConfigError(
            f"{source}: tasks.{_shown(name)}.name: a task is named by its table; take the field out",
            code=ErrorCode.TASKS_INVALID,
        )
    kinds: dict[str, type[LabelTask] | type[GenerateTask]] = {"label": LabelTask, "generate": GenerateTask}
    kind = table.get("kind") if isinstance(table, dict) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(
            f"{source}: tasks.{_shown(name)}.kind must be one of {', '.join(kinds)}",
            code=ErrorCode.TASKS_INVALID,
        )
    try:
        return kinds[kind].model_validate({**table, "name": name})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = ("tasks", name) if first["loc"] == ("name",) else ("tasks", name, *first["loc"])
        where = ".".join(_shown(str(part)) for part in path)
        raise ConfigError(f"{source}: {where}: {first['msg']}", code=ErrorCode.TASKS_INVALID) from None


def _shown(name: str) -> str:
    """A key of the file, fit for a message."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in name[:80])


def _one_placeholder(where: str, user: str) -> None:
    if user.count("{text}") != 1:
        raise ValueError(f"{where} must hold {{text}} exactly once")
