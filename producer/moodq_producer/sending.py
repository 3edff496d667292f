"""The way of ``moodq send``: lines in, outcomes out in the same order, in bounded memory.

A line that is refused at the edge gets an outcome of its own; its neighbours go on.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from moodq_config.contracts import RequestItem, Result
from moodq_config.errors import BadInput, ErrorCode, WaitTimeout
from moodq_config.names import BULK
from moodq_producer.client import Client
from moodq_producer.enqueue import OnFull
from moodq_producer.screen import bad_input_result

#: Items of one job of the bulk queue; any other queue gets a job per item, for the shortest wait.
BULK_CHUNK = 100


@dataclass(frozen=True, slots=True)
class LineError:
    """A line that is no text; ``shown`` is what can be shown of it."""

    error: BadInput
    shown: str


@dataclass(slots=True)
class Outcome:
    """One text on its way: ``name`` is shown for it, ``result`` is None until it is there."""

    id: str
    name: str
    result: Result | None = None


def argument_texts(texts: Sequence[str], id: str | None) -> Iterator[tuple[str, str | LineError]]:
    """The texts of a command line, each with an id that names it should it be refused."""
    for number, text in enumerate(texts, 1):
        yield id or f"text-{number}", text


def stdin_texts(stream: BinaryIO) -> Iterator[tuple[str, str | LineError]]:
    """The lines of ``stream`` that are not blank; one that is not UTF-8 is told, the others are texts."""
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        try:
            yield f"line-{number}", line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            refusal = BadInput(
                f"line {number} is not valid UTF-8 (byte {error.start}); convert the input, "
                "e.g. with: iconv -f GB18030 -t UTF-8",
                code=ErrorCode.INVALID_UTF8,
            )
            yield f"line-{number}", LineError(refusal, line.decode("utf-8", "replace").rstrip("\r\n"))


def send_all(
    client: Client,
    lines: Iterable[tuple[str, str | LineError]],
    tasks: Sequence[str],
    *,
    lang: str | None,
    queue: str,
    on_full: OnFull,
    full_timeout_s: float | None,
    idle_timeout_s: float | None,
    id: str | None = None,
    deadline_s: float | None = None,
    labels: Sequence[str] | None = None,
    documents: Sequence[str] | None = None,
) -> Iterator[Outcome]:
    """Send ``lines`` and give their outcomes in order; with ``idle_timeout_s`` None, without waiting.

    Raises ``WaitTimeout`` after the outcomes that are known and those that are not have been given.
    """
    underway: deque[Outcome] = deque()
    by_id: dict[str, Outcome] = {}

    def items() -> Iterator[RequestItem]:
        for name, text in lines:
            try:
                if isinstance(text, LineError):
                    raise text.error
                item = client.check(
                    text, tasks, id=id, lang=lang, deadline=deadline_s, labels=labels, documents=documents
                )
            except BadInput as error:
                shown = text.shown if isinstance(text, LineError) else text
                refused = bad_input_result(name, str(error.code), error.message)
                underway.append(Outcome(name, shown, refused))
                continue
            outcome = Outcome(item.id, item.text)
            underway.append(outcome)
            by_id[item.id] = outcome
            yield item

    tickets = client.submit_many(
        items(),
        tasks,
        queue=queue,
        chunk=BULK_CHUNK if queue == BULK else 1,
        on_full=on_full,
        full_timeout=full_timeout_s,
    )
    if idle_timeout_s is None:
        for _ in tickets:
            yield from _drain(underway)
        yield from underway
        return
    try:
        for result in client.wait((ticket.id for ticket in tickets), idle_timeout=idle_timeout_s):
            by_id.pop(result.id).result = result
            while underway and underway[0].result is not None:
                yield underway.popleft()
    except WaitTimeout:
        yield from underway
        raise
    yield from underway


def _drain(underway: deque[Outcome]) -> Iterator[Outcome]:
    while underway:
        yield underway.popleft()
