"""What the engine has to do for one text: the same reading of its tasks as an item's in the worker."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from moodq_config.errors import BadInput, ErrorCode
from moodq_config.tasks import GenerateTask, TaskSet, WriteTask


@dataclass(frozen=True, slots=True)
class Work:
    """``passes``: groups of tasks that one pass answers, in order; ``writes``: the replies after them."""

    passes: tuple[tuple[str, ...], ...]
    writes: tuple[str, ...]


def work_of(tasks: TaskSet, names: Sequence[str]) -> Work:
    """Raises ``BadInput`` (unknown_task)."""
    judged: list[str] = []
    writes: list[str] = []
    for name in names:
        if name not in tasks:
            known = ", ".join(sorted(tasks))
            raise BadInput(f"task {name!r} is unknown; known: {known}", code=ErrorCode.UNKNOWN_TASK)
        task = tasks[name]
        if not isinstance(task, WriteTask):
            judged.append(name)
            continue
        if isinstance(task, GenerateTask) and task.after:
            judged.append(task.after)  # the label that steers the reply
        writes.append(name)
    passes: list[tuple[str, ...]] = []
    left = list(dict.fromkeys(judged))
    while left:
        group = left[:1] if len(left) == 1 else list(tasks.computed_with(left[0], left))
        passes.append(tuple(group))
        left = [name for name in left if name not in group]
    return Work(tuple(passes), tuple(dict.fromkeys(writes)))
