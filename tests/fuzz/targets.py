"""What is fuzzed: each target takes any bytes, and returns the code of their refusal, or ``done``.

A target raises when a promise is broken: anything but an error of moodq's tree, a refusal that no producer
could read, an accepted input that cannot be answered. ``__main__`` feeds them by coverage, ``test_fuzz`` for
some seconds in CI.
"""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

from redis import Redis
from rq.utils import now, utcformat

from moodq_config.contracts import (
    ItemError,
    ItemLimits,
    RequestItem,
    Result,
    ResultStatus,
    item_id,
    parse_item,
)
from moodq_config.errors import NEVER_RETRIED, BadInput, ConfigError, ErrorCode, MoodqError
from moodq_config.tasks import load_tasks
from moodq_producer.following import Following
from moodq_producer.waiting import Waiting, parse_result
from moodq_worker.engine_fake import FakeEngine
from moodq_worker.items import Item, Job
from moodq_worker.rq_claim import Claim
from moodq_worker.rq_job import MIB, JobLimits, MoodqJob, read_payload

from .corpus import COMPRESSED_MARK, FIELD_MARK

Target = Callable[[bytes], str]

DONE = "done"
#: Never connected: nothing here asks a server.
NOWHERE = Redis(host="127.0.0.1", port=1)
#: A message goes to producers, logs and terminals; it names things, it does not repeat them at length.
LONGEST_MESSAGE = 8_000


def job(data: bytes) -> str:
    """The hash of a job, as ``split_job`` makes it of ``data``, from the claim to items ready to batch."""
    stored, fields = split_job(data)
    found = MoodqJob("j", connection=NOWHERE, limits=JobLimits(max_bytes=MIB))
    found.restore({**fields, b"data": stored, b"started_at": utcformat(now()).encode()})
    if found.to_dict()["data"] != stored:
        raise AssertionError("a job must keep its data as it was sent")
    found.get_result_ttl(500)  # what finishing and failing ask of it
    if found.should_retry:
        timedelta(seconds=found.get_retry_interval())
    claim = claim_of(found)
    try:
        raws = read_payload(found, max_items=100)
    except MoodqError as error:
        return refused(error)
    codes = {outcome(claim, raw) for raw in raws}
    return DONE if DONE in codes else min(codes)


def outcome(claim: Claim, raw: object) -> str:
    """The code of one item's refusal; ``done`` when it could be planned, and answered."""
    try:
        request = parse_item(raw, limits())
    except MoodqError as error:
        id = item_id(raw) or "fallback"
        answer(id, error=ItemError(code=str(error.code), message=error.message))
        return refused(error)
    item = Item(Job(claim), request.id, queue="interactive", clock=None, request=request)  # type: ignore[arg-type]
    item.cut_text(limits().max_text_chars)
    item.plan(tasks())
    if not (item.labels_todo or item.generates_todo):
        raise AssertionError("an accepted item must have something to do")
    FakeEngine().encode([item.text])
    answer(request.id, request=request)
    return DONE


def answer(id: str, *, request: RequestItem | None = None, error: ItemError | None = None) -> None:
    """Write the result as ``delivery`` does and read it as the producer does."""
    result = Result(
        id=id,
        status=ResultStatus.FAILED if error else ResultStatus.DONE,
        error=error,
        worker="w",
        attempt=1,
        finished_at="2026-01-02T03:04:05.678+00:00",
        metadata=request.metadata if request else None,
    )
    if parse_result(result.model_dump_json(exclude_none=True), result.id) != result:
        raise AssertionError("a result must survive the way to the producer")


def tasks_file(data: bytes) -> str:
    """A file named in ``MOODQ_TASKS_FILE``."""
    path = scratch() / "tasks.toml"
    path.write_bytes(data)
    try:
        load_tasks(path)
    except ConfigError as error:
        if error.code != ErrorCode.TASKS_INVALID:
            raise
        return readable(error)
    return DONE


def result(data: bytes) -> str:
    """What stands at a result key, and in an event stream, read by a producer."""
    waiting = Waiting(keep_refused=True)
    waiting.arrived([(b"moodq:events:a", [(b"1-0", {b"event": b"done", b"data": data})])])
    following(b"label", data)
    following(b"token", data)
    event, _, rest = data.partition(b"\n")
    following(event if event != b"done" else b"", rest)
    try:
        parse_result(data, "a")
        following(b"done", data)
    except BadInput as error:
        if "a" not in waiting.refused:
            raise AssertionError("the same result was read in another way") from error
        return refused(error)
    return DONE


def following(event: bytes, data: bytes) -> None:
    Following("a").arrived([(b"moodq:events:a", [(b"1-0", {b"event": event, b"data": data})])])


TARGETS: dict[str, Target] = {"job": job, "tasks-file": tasks_file, "result": result}


def split_job(data: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The stored data of a job and the other fields of its hash."""
    stored, *rest = data.split(FIELD_MARK)
    if stored.startswith(COMPRESSED_MARK):
        stored = zlib.compress(stored.removeprefix(COMPRESSED_MARK), 1)
    pairs = (field.partition(b"=") for field in rest)
    return stored, {name: value for name, _, value in pairs}


def claim_of(found: MoodqJob) -> Claim:
    enqueued_at = (found.enqueued_at or found.created_at).timestamp()
    return Claim(found, None, None, 1, enqueued_at, enqueued_at)  # type: ignore[arg-type]


def refused(error: MoodqError) -> str:
    """The code of a refusal by an end of the queue, which no second attempt could cure."""
    if error.code not in NEVER_RETRIED:
        raise AssertionError(f"{error.code} would be tried again")
    return readable(error)


def readable(error: MoodqError) -> str:
    if len(error.message) > LONGEST_MESSAGE:
        raise AssertionError(f"the message of {error.code} has {len(error.message)} characters")
    error.message.encode("utf-8")
    if not error.message.replace("\n", "").isprintable():
        raise AssertionError(f"the message of {error.code} could forge a line: {error.message!r}")
    return str(error.code)


@cache
def tasks() -> Any:
    return load_tasks()


@cache
def limits() -> ItemLimits:
    return ItemLimits(max_text_chars=200, max_metadata_bytes=512, task_names=frozenset(tasks()))


@cache
def scratch() -> Path:
    """A folder of this process, removed at its end."""
    folder = tempfile.TemporaryDirectory(prefix="moodq-fuzz-")
    _kept.append(folder)
    return Path(folder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []
