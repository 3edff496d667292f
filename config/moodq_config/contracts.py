"""The language-neutral contracts: what a job carries, and what a result key holds.

A job is an RQ job whose data is JSON: ``["moodq.run", null, [{"v": 1, "items": [...]}], {}]``.
A result is the JSON value of ``moodq:result:<id>``. ``docs/protocol.md`` shows both on the wire, and
golden files under ``tests/contract`` keep them from changing by accident.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeVar
from uuid import uuid4

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
)

from moodq_config.answers import Answer, GeneratedText, LabelScores, Reading
from moodq_config.errors import BadInput, ErrorCode, ItemFailed
from moodq_config.trace_context import NO_CONTEXT, JobContext, usable_traceparent

__all__ = [
    "CONTRACT_VERSION",
    "CUT_FACTOR",
    "ID_PATTERN",
    "MAX_DOCUMENTS",
    "MAX_LABELS",
    "MAX_METADATA_DEPTH",
    "MAX_TASKS_PER_ITEM",
    "NEEDS_DOCUMENTS",
    "NEEDS_LABELS",
    "Cut",
    "Deadline",
    "GeneratedText",
    "Id",
    "ItemError",
    "ItemLimits",
    "LabelScores",
    "LongText",
    "MadeBy",
    "ModelRef",
    "RequestItem",
    "RequestLabel",
    "Result",
    "ResultStatus",
    "Silence",
    "TaskName",
    "Timings",
    "Truncated",
    "clean_text",
    "deadline_at",
    "item_id",
    "job_payload",
    "parse_item",
    "payload_context",
    "payload_items",
]

CONTRACT_VERSION = 1

#: Characters an id may have. A single item's job takes the item's id; RQ allows no dot there, so for such an
#: item the producer derives the job's id.
ID_PATTERN = r"^[A-Za-z0-9_.\-]{1,128}$"
MAX_TASKS_PER_ITEM = 16
#: A text over its limit may be cut (``long_text``), but one this many times over it is refused in any case.
CUT_FACTOR = 10
#: Lists and objects within each other; well below what any JSON library of a producer gives up at.
MAX_METADATA_DEPTH = 32

Id = Annotated[str, StringConstraints(pattern=ID_PATTERN)]
TaskName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,63}$")]

#: Labels and documents one item may bring, and how many texts at their limit all documents may make up.
MAX_LABELS = 32
MAX_DOCUMENTS = 100
DOCUMENTS_FACTOR = 8
#: A label becomes part of the prompt: words on one line, in which nothing but words can be said.
RequestLabel = Annotated[str, StringConstraints(pattern=r"^[\w](?:[\w &/+.'’·-]{0,46}[\w+.])?$")]
#: Fields of an item that some kinds of task need.
NEEDS_LABELS = "labels"
NEEDS_DOCUMENTS = "documents"

LongText = Literal["refuse", "truncate"]
#: Why a task did not answer the customer: a person has taken the conversation over, or a route says so.
Silence = Literal["taken_over", "route"]


def deadline_at(deadline: str) -> float:
    """The moment an item's ``deadline`` names, in unix seconds. Raises ``ValueError``."""
    try:
        moment = datetime.fromisoformat(deadline)
        if moment.tzinfo is not None:
            return moment.timestamp()
    except (ValueError, OverflowError):
        pass
    raise ValueError("must be a time of ISO 8601 with its offset, as 2026-01-02T03:04:05Z")


def _checked_deadline(deadline: str) -> str:
    deadline_at(deadline)
    return deadline


Deadline = Annotated[str, StringConstraints(max_length=40), AfterValidator(_checked_deadline)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class RequestItem(_Frozen):
    """One text and what to do with it.

    ``id`` is also the idempotency key: an id that already has a finished result is not run again.
    ``long_text`` says what a worker does with a text over its limits; unset, as the worker is configured.
    After ``deadline`` the item is not started any more.
    ``labels`` are for tasks that choose among the request's labels; ``documents`` for those that rank them,
    with ``text`` as the query. ``traceparent`` is the W3C trace context it is part of; an unusable one counts
    as none.
    """

    id: Id = Field(default_factory=lambda: uuid4().hex)
    text: str
    tasks: tuple[TaskName, ...] = Field(min_length=1, max_length=MAX_TASKS_PER_ITEM)
    conversation: Id | None = None
    lang: Literal["zh", "en"] | None = None
    metadata: dict[str, Any] | None = None
    long_text: LongText | None = None
    deadline: Deadline | None = None
    labels: tuple[RequestLabel, ...] | None = Field(None, min_length=2, max_length=MAX_LABELS)
    documents: tuple[str, ...] | None = Field(None, min_length=1, max_length=MAX_DOCUMENTS)
    traceparent: Annotated[str | None, BeforeValidator(usable_traceparent)] = None


Form = TypeVar("Form", bound=Reading)


class ResultStatus(StrEnum):
    DONE = "done"
    FAILED = "failed"


class ItemError(Reading):
    code: str
    message: str


class ModelRef(Reading):
    id: str
    revision: str
    precision: str


class MadeBy(Reading):
    """Who answered a task that the worker's own model did not: ``model`` at the endpoint on ``host``."""

    engine: Literal["remote"] = "remote"
    model: str
    host: str


class Timings(Reading):
    """Milliseconds an item spent in each stage. ``queue`` is from enqueue to claim, ``batch`` from claim to
    the start of its first forward pass, ``total`` from enqueue to the result's writing. ``remote`` is the
    time of requests to a remote endpoint, failed ones too."""

    queue: float
    batch: float
    prefill: float
    decode: float
    total: float
    remote: float | None = None


class Cut(Reading):
    """How much of a text was read, from its beginning, and how much there was."""

    kept: int
    of: int


class Truncated(Reading):
    """Which limits a text was cut to. ``tokens.of`` counts those of the characters kept."""

    characters: Cut | None = None
    tokens: Cut | None = None


class Result(Reading):
    """What ``moodq:result:<id>`` holds. ``results`` is keyed by task name. ``cached`` says that the model was
    not asked: the same text (``exact``), or one of its kind (``template``), had been labelled before, or a
    person has pinned a label to texts of its kind (``pinned``). ``truncated`` says that only the text's
    beginning was read. ``revisions``: by task, of the definition that was asked. ``made_by`` has the tasks
    that a remote endpoint answered; ``model`` answered the others. ``trace`` is the id of its trace.
    ``route`` is where a rule has sent the message. ``silenced``: the tasks that did not answer the customer,
    and why."""

    v: Literal[1] = 1
    id: str
    status: ResultStatus
    results: dict[str, Answer] = Field(default_factory=dict)
    error: ItemError | None = None
    model: ModelRef | None = None
    timings_ms: Timings | None = None
    worker: str
    attempt: int
    finished_at: str
    metadata: dict[str, Any] | None = None
    cached: Literal["exact", "template", "pinned"] | None = None
    truncated: Truncated | None = None
    revisions: dict[str, str] | None = None
    made_by: dict[str, MadeBy] | None = None
    trace: str | None = None
    route: str | None = None
    silenced: dict[str, Silence] | None = None

    def raise_for_error(self) -> Result:
        """The result itself. Raises ``ItemFailed`` when the item failed."""
        if self.error is None and self.status is ResultStatus.DONE:
            return self
        error = self.error or ItemError(code=ErrorCode.INTERNAL, message="it says no error")
        if error.code in set(ErrorCode):
            raise ItemFailed(f"item {self.id}: {error.message}", code=ErrorCode(error.code))
        raise ItemFailed(f"item {self.id}: {error.code}: {error.message}", code=ErrorCode.INTERNAL)

    def answer(self, task: str, form: type[Form]) -> Form:
        """What ``task`` said, in the form of its kind, as ``answer("sentiment", LabelScores)``. Raises
        ``ItemFailed`` when the item failed, ``BadInput`` when there is no such answer."""
        found = self.raise_for_error().results.get(task)
        if isinstance(found, form):
            return found
        there = ", ".join(f"{name} ({type(one).__name__})" for name, one in self.results.items())
        raise BadInput(f"item {self.id} has no {form.__name__} of task {task!r}; its answers: {there}")


class ItemLimits(_Frozen):
    """What an item may hold at most; taken from the settings, on both ends. ``long_text`` counts for items
    that do not say their own. ``needs`` says which field a task needs (``TaskSet.needs``)."""

    max_text_chars: int
    max_metadata_bytes: int = 4_096
    long_text: LongText = "refuse"
    task_names: frozenset[str] | None = None
    needs: dict[str, str] = Field(default_factory=dict)


def clean_text(text: str, max_chars: int, long_text: LongText = "refuse") -> str:
    """Strip ``text`` and check it. Raises ``BadInput`` (empty_text, text_too_long, invalid_utf8).

    With ``truncate`` a text up to ``CUT_FACTOR`` times the limit is let through whole: the worker cuts it.
    """
    if _LONE_SURROGATE.search(text):
        raise BadInput(
            "text is not valid UTF-8; send text encoded as UTF-8, without lone surrogates",
            code=ErrorCode.INVALID_UTF8,
            field="text",
        )
    stripped = text.strip()
    if not stripped:
        raise BadInput(
            "text is empty; send at least one character that is not white space",
            code=ErrorCode.EMPTY_TEXT,
            field="text",
        )
    if long_text == "truncate" and len(stripped) > max_chars * CUT_FACTOR:
        raise BadInput(
            f"text has {len(stripped)} characters, the limit is {max_chars}, and one over {CUT_FACTOR} times "
            "that is not cut; shorten or split it, or raise MOODQ_MAX_TEXT_CHARS on producer and worker",
            code=ErrorCode.TEXT_TOO_LONG,
            field="text",
            limit=max_chars * CUT_FACTOR,
        )
    if long_text == "refuse" and len(stripped) > max_chars:
        raise BadInput(
            f"text has {len(stripped)} characters, the limit is {max_chars}; shorten or split it, have it "
            "cut (MOODQ_LONG_TEXT=truncate), or raise MOODQ_MAX_TEXT_CHARS on producer and worker",
            code=ErrorCode.TEXT_TOO_LONG,
            field="text",
            limit=max_chars,
        )
    return stripped


_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


def parse_item(raw: object, limits: ItemLimits) -> RequestItem:
    """Check one item of a job and return it with its text stripped.

    Raises ``BadInput`` with the code of the first thing that is wrong; the message names field, limit
    and fix and never repeats the text.
    """
    if not isinstance(raw, dict):
        raise BadInput(f'item is {_json_type(raw)}, not an object; send {{"text": ..., "tasks": [...]}}')
    if isinstance(raw.get("text"), str):
        asked = raw.get("long_text") or limits.long_text  # a value that is neither is refused below
        raw = {**raw, "text": clean_text(raw["text"], limits.max_text_chars, asked)}
    if isinstance(raw.get("documents"), list | tuple):
        raw = {**raw, "documents": _clean_documents(raw["documents"], limits.max_text_chars)}
    try:
        item = RequestItem.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"]) or "item"
        raise BadInput(f"field {_shown(field)}: {first['msg']}", field=field[:80]) from None
    if item.metadata is not None:
        _check_metadata(item.metadata, limits.max_metadata_bytes)
    if limits.task_names is not None:
        for name in item.tasks:
            if name not in limits.task_names:
                raise BadInput(
                    f"field 'tasks': {name!r} is not a task; known: {', '.join(sorted(limits.task_names))}",
                    code=ErrorCode.UNKNOWN_TASK,
                    field="tasks",
                )
        _check_needs(item, limits.needs)
    return item


def item_id(raw: object) -> str | None:
    """The id of a raw item if it has a usable one, even when the rest of it is wrong."""
    if isinstance(raw, dict) and isinstance(raw.get("id"), str) and re.fullmatch(ID_PATTERN, raw["id"]):
        return str(raw["id"])
    return None


def job_payload(items: list[RequestItem], context: JobContext = NO_CONTEXT) -> dict[str, Any]:
    """The one positional argument of a job."""
    dumped = [item.model_dump(exclude_none=True) for item in items]
    return {"v": CONTRACT_VERSION, "items": dumped, **context.fields()}


def payload_context(args: Sequence[Any]) -> JobContext:
    """What positional arguments that ``payload_items`` has read say beside the items."""
    return JobContext.of(args[0])


def payload_items(args: object, max_items: int) -> list[object]:
    """The raw items of a job's positional arguments.

    Raises ``BadInput``: broken_json (not of the shape), wrong_version, too_many_items.
    """
    payload = args[0] if isinstance(args, list | tuple) and len(args) == 1 else None
    if not isinstance(payload, dict):
        raise BadInput(
            'job data must be ["moodq.run", null, [{"v": 1, "items": [...]}], {}]; see docs/protocol.md',
            code=ErrorCode.BROKEN_JSON,
        )
    version = payload.get("v")
    if version != CONTRACT_VERSION or isinstance(version, bool):
        raise BadInput(
            f"field 'v' is {_shown(version)}, this worker speaks version {CONTRACT_VERSION}; "
            "use a producer of the same major version",
            code=ErrorCode.WRONG_VERSION,
        )
    items = payload.get("items")
    if not isinstance(items, list) or not items:
        raise BadInput("field 'items' must be a list of 1 or more items", code=ErrorCode.BROKEN_JSON)
    if len(items) > max_items:
        raise BadInput(
            f"field 'items' has {len(items)} items, the limit is {max_items}; send several jobs, "
            "or raise MOODQ_MAX_ITEMS_PER_JOB",
            code=ErrorCode.TOO_MANY_ITEMS,
        )
    return items


def _clean_documents(documents: Sequence[object], max_chars: int) -> Sequence[object]:
    """Each as ``clean_text`` gives it; whatever is no string is left for the model to refuse. Documents are
    never cut: a passage that is only half read would be ranked by half of it."""
    if len(documents) > MAX_DOCUMENTS:
        return documents
    cleaned: list[object] = []
    for number, document in enumerate(documents):
        try:
            cleaned.append(clean_text(document, max_chars) if isinstance(document, str) else document)
        except BadInput as error:
            field = f"documents.{number}"
            raise BadInput(
                f"field {field!r}: {error.message}", code=error.code, field=field, limit=error.limit
            ) from None
    total = sum(len(document) for document in cleaned if isinstance(document, str))
    if total > max_chars * DOCUMENTS_FACTOR:
        raise BadInput(
            f"field 'documents' has {total} characters in all, the limit is {max_chars * DOCUMENTS_FACTOR}; "
            "send fewer or shorter documents, or raise MOODQ_MAX_TEXT_CHARS on producer and worker",
            code=ErrorCode.TEXT_TOO_LONG,
        )
    return cleaned


def _check_needs(item: RequestItem, needs: Mapping[str, str]) -> None:
    """What a task needs must be there, and what no task of the item reads must not."""
    given = {NEEDS_LABELS: item.labels, NEEDS_DOCUMENTS: item.documents}
    for name in item.tasks:
        if (field := needs.get(name)) is not None and given[field] is None:
            raise BadInput(
                f"field {field!r} is missing; task {name!r} needs it, see docs/protocol.md", field=field
            )
    for field, value in given.items():
        if value is not None and field not in map(needs.get, item.tasks):
            users = ", ".join(sorted(name for name, need in needs.items() if need == field)) or "none here"
            raise BadInput(f"field {field!r} goes with other tasks ({users}); leave it out")
    if item.labels is not None and len({label.casefold() for label in item.labels}) < len(item.labels):
        raise BadInput("field 'labels' names a label twice; send each once")


def _check_metadata(metadata: dict[str, Any], max_bytes: int) -> None:
    """Metadata goes into the result as it came, so whatever could not be written there is refused here."""
    level: list[object] = [metadata]
    for _ in range(MAX_METADATA_DEPTH):
        level = [child for value in level for child in _children(value)]
    if level:
        raise BadInput(f"field 'metadata' is nested more than {MAX_METADATA_DEPTH} levels deep; flatten it")
    try:
        size = len(json.dumps(metadata, ensure_ascii=False, allow_nan=False).encode("utf-8"))
    except UnicodeEncodeError:
        raise BadInput(
            "field 'metadata' is not valid UTF-8; send it without lone surrogates",
            code=ErrorCode.INVALID_UTF8,
        ) from None
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"field 'metadata' is not JSON ({error}); use objects, lists, strings, finite numbers, "
            "true, false and null"
        ) from None
    if size > max_bytes:
        raise BadInput(
            f"field 'metadata' has {size} bytes as JSON, the limit is {max_bytes}; keep the data yourself "
            "and send a reference, or raise MOODQ_MAX_METADATA_BYTES on producer and worker",
            field="metadata",
            limit=max_bytes,
        )


def _children(value: object) -> Iterable[object]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple) else ()


def _shown(value: object) -> str:
    """A short form of something a stranger sent, fit for a message."""
    if isinstance(value, list | dict):
        return "a list" if isinstance(value, list) else "an object"
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:80]}…"


def _json_type(value: object) -> str:
    return {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "a list",
    }.get(type(value), type(value).__name__)
