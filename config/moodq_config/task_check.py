"""All that is wrong with a tasks file at once, for ``moodq tasks check``; a worker's start ends at the first.

What takes more than this package to find out, as whether a schema can be written to, is looked for by
functions that other packages register as entry points: ``Callable[[Iterable[Task]], Iterator[str]]``, each
message beginning with the field.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from moodq_config.errors import ConfigError, ErrorCode
from moodq_config.routes import Route, unfit_routes
from moodq_config.task_kinds import Task
from moodq_config.task_loading import Fault, located, read_file
from moodq_config.tasks import GenerateTask, TaskSet, read_text, shipped_tasks, unfit

CHECKS_GROUP = "moodq.tasks.checks"


@dataclass(frozen=True, slots=True)
class Checked:
    """``own`` are the file's tasks and ``routes`` its routes that are in order by themselves, ``faults`` all
    that is wrong, by lines. ``left_out`` names checks whose package is not installed here."""

    path: Path
    own: dict[str, Task]
    faults: list[Fault]
    left_out: list[str]
    routes: tuple[Route, ...] = ()

    @property
    def tasks(self) -> TaskSet:
        """The file's tasks over the shipped ones. Raises ``ConfigError`` (tasks_invalid) for the first
        fault."""
        for fault in self.faults:
            raise ConfigError(fault.told(str(self.path)), code=ErrorCode.TASKS_INVALID)
        return TaskSet({**shipped_tasks(), **self.own}, self.routes)


def check_file(path: Path, warm_tasks: Sequence[str] = ()) -> Checked:
    """Look for every fault of the tasks file at ``path``. ``warm_tasks`` must be tasks, too. Raises
    ``ConfigError`` when it cannot be read."""
    text = read_text(path)
    found = read_file(text)
    own, faults = found.tasks, found.faults
    left_out: list[str] = []
    messages = [*_unfit(own, faults), *_found_elsewhere(own, left_out)]
    if not faults:
        messages += unfit_routes(found.routes, {**shipped_tasks(), **own})
    if not faults:
        known = {**shipped_tasks(), **own}
        messages += [f"MOODQ_WARM_TASKS: {name!r} is not a task" for name in warm_tasks if name not in known]
    faults += located(messages, text)
    return Checked(path, own, sorted(faults, key=lambda fault: fault.line or 0), left_out, found.routes)


def _unfit(own: dict[str, Task], faults: Sequence[Fault]) -> Iterator[str]:
    """What does not fit between tasks, without what is said of those that are broken themselves."""
    broken = {fault.field.split(".")[1] for fault in faults if fault.field.count(".")}
    together = {**shipped_tasks(), **own}
    return unfit(
        {
            name: task
            for name, task in together.items()
            if not (isinstance(task, GenerateTask) and task.after in broken)
        }
    )


def _found_elsewhere(own: dict[str, Task], left_out: list[str]) -> Iterator[str]:
    for point in entry_points(group=CHECKS_GROUP):
        try:
            check = point.load()
        except ModuleNotFoundError:
            left_out.append(point.name)
            continue
        yield from check(own.values())
