"""What the command line shows: tables for a person, JSON lines for a program, nothing raw from a text
(``moodq_config.printable`` says what that means)."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

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
from moodq_config.contracts import Result, ResultStatus
from moodq_config.printable import escaped, printable, printable_json
from moodq_producer.following import Event

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from moodq_producer.failed import FailedJob

#: Characters of a text a table shows.
SHOWN_TEXT_CHARS = 60


def json_line(result: Result) -> str:
    """The result as its key holds it, with the control characters JSON would let through escaped."""
    return printable_json(result.model_dump_json(exclude_none=True))


def event_line(event: Event) -> str:
    """One event as a line of JSON; a result as its key holds it."""
    if event.result is not None:
        return '{"event": "done", "result": ' + json_line(event.result) + "}"
    labels = {task: scores.model_dump() for task, scores in event.labels.items()}
    told = {"labels": labels} if event.kind == "label" else {"task": event.task, "text": event.text}
    if event.kind == "route":
        told = {"route": event.route}
    return printable_json(json.dumps({"event": event.kind, **told}, ensure_ascii=False))


def event_text(event: Event, told: Collection[str] = ()) -> str:
    """One event for a person: what was judged, a reply's text as it comes; at the end, what the events of the
    tasks ``told`` have not said, and the time it took."""
    if event.kind == "label":
        return "".join(f"{printable(task)}: {_value(found)}\n" for task, found in event.labels.items())
    if event.kind == "route":
        return f"route: {printable(event.route)}\n"
    if event.kind == "token":
        return escaped(event.text, keep="\n")
    if event.result is None or event.result.error is not None:
        error = event.result.error if event.result else None
        return printable(f"failed: {error.code}: {error.message}") + "\n" if error else ""
    found = event.result.results
    lines = "\n" if any(isinstance(found.get(task), GeneratedText) for task in told) else ""
    for task, answer in found.items():
        if task not in told:
            lines += f"{printable(task)}: {_value(answer)}\n"
    return f"{lines}{_total_ms(event.result)} ms\n"


def results_table(rows: Sequence[tuple[str, Result | None]], tasks: Sequence[str], title: str) -> Table:
    """One row per text: what each task said, and the milliseconds in all. None: no result yet."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title, overflow="fold")
    for task in tasks:
        table.add_column(Text(printable(task)), overflow="fold")
    table.add_column("ms", justify="right", no_wrap=True)
    for name, result in rows:
        table.add_row(Text(_short(printable(name))), *_cells(result, tasks), Text(_total_ms(result)))
    return table


def stats_table(queues: Mapping[str, Mapping[str, float | int | None]]) -> Table:
    """One row per queue; counts are jobs."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("queue")
    for name in ("waiting", "oldest (s)", "started", "finished", "failed", "workers"):
        table.add_column(name, justify="right")
    for queue, row in queues.items():
        age = row["oldest_age_s"]
        table.add_row(
            Text(printable(queue)),
            str(row["length"]),
            "-" if age is None else f"{age:.1f}",
            *(str(row[name]) for name in ("started", "finished", "failed", "workers")),
        )
    return table


def failed_table(jobs: Sequence[FailedJob]) -> Table:
    """One row per failed job; no texts."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("id", "queue", "code", "attempts", "items", "ended", "message"):
        table.add_column(name, overflow="fold", justify="right" if name in ("attempts", "items") else "left")
    for job in jobs:
        attempts = "-" if job.attempts is None else str(job.attempts)
        cells = (job.id, job.queue, job.code, attempts, str(len(job.items)), job.ended_at[:19], job.message)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def workers_line(workers: Mapping[str, str], *, paused: bool = False) -> str:
    """Who is working and in which state, and what to do when nobody is."""
    note = "\npaused: nothing is claimed until `moodq resume`" if paused else ""
    if not workers:
        return f"workers: none alive; start one with `moodq worker`, or `moodq up` for everything{note}"
    shown = ", ".join(f"{printable(name)} ({printable(state)})" for name, state in workers.items())
    return f"workers: {len(workers)} alive: {shown}{note}"


def bad_input_result(id: str, code: str, message: str) -> Result:
    """A line that was refused before it reached a queue, in the form of every other outcome."""
    return Result.model_validate(
        {
            "id": id,
            "status": ResultStatus.FAILED,
            "error": {"code": code, "message": message},
            "worker": "",
            "attempt": 0,
            "finished_at": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime()),
        }
    )


def _cells(result: Result | None, tasks: Sequence[str]) -> list[Text]:
    from rich.text import Text

    if result is None:
        return [Text("no result yet", style="yellow"), *(Text("") for _ in tasks[1:])]
    if result.status is ResultStatus.FAILED:
        error = result.error
        shown = printable(f"{error.code}: {error.message}") if error else "failed"
        return [Text(shown, style="red"), *(Text("") for _ in tasks[1:])]
    return [Text(_value(result.results.get(task))) for task in tasks]


def _value(value: Answer | None) -> str:
    match value:
        case LabelScores():
            return f"{printable(value.label)} {value.probability:.3f}"
        case ChosenLabel():
            return printable(value.label)
        case LabelSet():
            held = [f"{printable(label)} {value.scores[label]:.3f}" for label in value.labels]
            return ", ".join(held) or "none"
        case Score():
            return f"{value.score:.3f}"
        case Ranking():
            return ", ".join(f"{number} ({value.scores[number]:.3f})" for number in value.ranking)
        case GeneratedText():
            return printable(value.text) + (" …" if value.finish_reason == "length" else "")
        case Extracted():
            return printable(json.dumps(value.data, ensure_ascii=False))
    return "-"


def _total_ms(result: Result | None) -> str:
    return f"{result.timings_ms.total:.0f}" if result and result.timings_ms else ""


def _short(text: str) -> str:
    return text if len(text) <= SHOWN_TEXT_CHARS else text[: SHOWN_TEXT_CHARS - 1] + "…"
