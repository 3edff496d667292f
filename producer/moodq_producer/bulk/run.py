"""One run of ``moodq tag``: rows in, records out, and what is watched on the way."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from moodq_config.errors import ConfigError
from moodq_config.names import PRODUCER_SERVICE
from moodq_config.otel import traced_process
from moodq_config.task_kinds import LabelTask
from moodq_config.tasks import load_tasks
from moodq_producer.bulk.files import STDIN, Position
from moodq_producer.bulk.openai_batch import response
from moodq_producer.bulk.output import Checkpoint, Output, new_checkpoint, read_checkpoint
from moodq_producer.bulk.progress import Counts, Progress
from moodq_producer.bulk.records import Record, read_records, record_of, summary_of
from moodq_producer.bulk.report import Report
from moodq_producer.bulk.rows import Columns, Format, read_rows
from moodq_producer.bulk.running import workers
from moodq_producer.bulk.tagging import Plan, Tagged, Tagging
from moodq_producer.bulk.templates import Templates, write_csv
from moodq_producer.client import Client

EXIT_COMPLETE, EXIT_PARTIAL = 0, 3

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What a command line asks for; ``files`` are paths, or ``-``."""

    files: tuple[str, ...]
    tasks: tuple[str, ...]
    format: Format | None
    columns: Columns
    output: Path | None
    rejects: Path | None
    lang: str | None
    queue: str
    resume: bool
    ordered: bool
    dedupe: bool
    sample: float
    report: Path | None
    time_column: str | None
    templates: Path | None
    local: bool
    timeout_s: float
    quiet: bool

    @property
    def terms(self) -> dict[str, Any]:
        """What must be the same for a resumed run."""
        return {
            "files": list(self.files), "tasks": list(self.tasks), "format": self.format,
            "text_column": self.columns.text, "columns": list(self.columns.kept), "lang": self.lang,
            "unordered": not self.ordered, "sample": self.sample, "dedupe": self.dedupe,
            "rejects": self.rejects is not None,
        }  # fmt: skip

    @property
    def many(self) -> bool:
        return len(self.files) > 1


class Watchers:
    """The report and the table of templates, where they are asked for."""

    def __init__(self, order: Order, labels: list[str]) -> None:
        self._order = order
        self._report = Report(labels[0], order.time_column) if order.report and labels else None
        self._templates = Templates() if order.templates is not None else None

    def __bool__(self) -> bool:
        return self._report is not None or self._templates is not None

    def add(self, one: Record, *, fresh: bool = True) -> None:
        if self._report is not None:
            self._report.add(one.where, one.text, one.labels, code=one.code, kept=one.kept, fresh=fresh)
        if self._templates is not None:
            self._templates.add(one.text, one.labels)

    def write(self) -> None:
        order = self._order
        if self._report is not None and order.report is not None:
            title = f"{', '.join(order.tasks)} of {', '.join(order.files)}"
            order.report.write_text(self._report.page(title), "utf-8")
        if self._templates is not None and order.templates is not None:
            with order.templates.open("w", encoding="utf-8", newline="") as to:
                write_csv(self._templates.most_frequent(), to)


def run(order: Order, say: Say) -> int:
    """Returns the exit code. Raises ``ConfigError``, ``Unavailable`` and ``WaitTimeout``."""
    _keep_inputs(order)
    checkpoint = (
        read_checkpoint(order.output, order.terms)
        if order.resume and order.output
        else new_checkpoint(order.output, order.terms)
    )
    position, counts = Position(order.files), Counts(checkpoint.counts)
    rows = read_rows(order.files, order.columns, order.format, position)
    with workers(order.queue, local=order.local), traced_process(PRODUCER_SERVICE), Client() as client:
        tasks = load_tasks(client.settings.tasks_file)
        watchers = Watchers(order, [name for name in order.tasks if isinstance(tasks.get(name), LabelTask)])
        if watchers and checkpoint.rows:
            for record in _written_before(order, checkpoint, say):
                watchers.add(record, fresh=False)
        plan = Plan(
            order.tasks, checkpoint.run, order.queue, order.lang, order.ordered, order.dedupe, order.sample,
            checkpoint.rows, frozenset(checkpoint.beyond), order.timeout_s,
        )  # fmt: skip
        sink = Output(order.output, order.rejects, checkpoint)
        progress = Progress(counts, position, quiet=order.quiet)
        tagging = Tagging(client, rows, plan)
        written: list[str] = []  # ids whose results Redis need not keep once the checkpoint counts them
        complete = False
        try:
            with progress:
                for one in tagging:
                    _write(sink, one, order)
                    counts.add(one.result)
                    if watchers:
                        watchers.add(summary_of(one, many=order.many))
                    written.append(one.result.id)
                    if sink.due:
                        sink.save(tagging.rows_done, tagging.beyond, dict(counts.all))
                        client.forget(written)
                        written.clear()
                    progress.step()
            complete = True
        except BrokenPipeError:
            return _nobody_reads()
        finally:
            with suppress(BrokenPipeError):
                sink.close(complete=complete)
            if complete:
                client.forget(written)
            elif order.output is not None:
                say(f"{progress.told()}; go on with the same command and --resume")
        watchers.write()
    if not order.quiet:
        say(progress.told())
    return EXIT_PARTIAL if counts.all["failed"] else EXIT_COMPLETE


def _write(sink: Output, one: Tagged, order: Order) -> None:
    if order.format == "openai-batch":
        record = response(one.row.kept, one.row.line, one.result)
    else:
        record = record_of(one, many=order.many)
    if one.result.error is not None:
        sink.reject(record)
    else:
        sink.write(record)


def _written_before(order: Order, checkpoint: Checkpoint, say: Say) -> Iterator[Record]:
    """What the run that is gone on with has written; of responses the texts are not known any more."""
    if order.format == "openai-batch":
        say(f"--report and --templates show the rows from {checkpoint.rows + 1} on only")
        return iter(())
    sizes = ((order.output, checkpoint.bytes), (order.rejects, checkpoint.reject_bytes))
    return chain.from_iterable(_records(path, size) for path, size in sizes if path is not None)


def _records(path: Path, size: int) -> Iterator[Record]:
    def lines() -> Iterator[bytes]:
        left = size
        with path.open("rb") as file:
            for line in file:
                if left <= 0:
                    return
                left -= len(line)
                yield line

    return read_records(lines(), str(path))


def _keep_inputs(order: Order) -> None:
    """Raises ``ConfigError`` for a file that would be read and overwritten."""
    read = {Path(path).resolve() for path in order.files if path != STDIN}
    for path in (order.output, order.rejects, order.report, order.templates):
        if path is not None and path.resolve() in read:
            raise ConfigError(f"{path} would be both read and written; name another output")


def _nobody_reads() -> int:
    """Standard output was closed, as ``head`` does. What is flushed at exit goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return EXIT_PARTIAL
