"""What the fuzzer begins with, and the words its mutator puts in: the golden files and the shipped tasks."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

#: Between the data and the fields of a job's hash in a fuzzed input; and before data to be compressed.
FIELD_MARK = b"\n#"
COMPRESSED_MARK = b"z"

TESTS = Path(__file__).parents[1]
GOLDEN = TESTS / "contract" / "golden"
TASK_FILES = (TESTS.parent / "config" / "moodq_config" / "tasks.toml", TESTS / "bench" / "four_tasks.toml")

#: A job's hash as RQ writes it, one field each.
HASH_FIELDS = (
    b"status=queued", b"origin=interactive", b"timeout=-1", b"retries_left=2", b"result_ttl=3600",
    b"failure_ttl=86400", b"created_at=2026-01-02T03:04:05.678000Z", b"enqueued_at=2026-01-02T03:04:05.678Z",
    b"description=moodq: 1 item", b"meta=", b"ttl=60", b"retry_intervals=[1, 2]",
    b"number_of_retries=1", b"enqueue_at_front=1", b"repeats_left=1",
    b"repeat_intervals=[5]", b"group_id=g", b"worker_name=w", b"webhooks=[]", b"allow_dependency_failures=1",
)  # fmt: skip

#: Words for the mutator to put in.
WORDS = {
    "job": (
        b'"moodq.run"', b'"v"', b'"items"', b'"id"', b'"text"', b'"tasks"', b'"sentiment"', b'"reply"',
        b'"lang"', b'"metadata"', b'"conversation"', b'"long_text"', b'"truncate"', b'"zh"', b"null", b"true",
        b"NaN", b"1e999", b"\\ud800", b"\x80\x04", b"\xff", FIELD_MARK,
        *(field.partition(b"=")[0] + b"=" for field in HASH_FIELDS),
    ),
    "tasks-file": (
        b"[tasks.", b'kind = "label"', b'kind = "generate"', b"labels = [", b"prompt.zh", b"prompt.en",
        b"{text}", b"words = {", b"system = ", b"user = ", b"bias = {", b"examples = [", b"steer = {",
        b"after = ", b"layout = ", b'"text_first"', b"ask = ", b"cache = ", b"max_new_tokens = ",
        b"nan", b"inf", b"1979-05-27T07:32:00Z", b'"""', b"0x", b"\xff",
    ),
    "result": (
        b'"v"', b'"status"', b'"done"', b'"failed"', b'"results"', b'"label"', b'"probability"', b'"scores"',
        b'"finish_reason"', b'"tokens"', b'"error"', b'"code"', b'"timings_ms"', b'"task"', b'"text"',
        b"token\n", b"label\n", b"done\n", b"NaN", b"1e999", b"\\ud800", b"\xff",
    ),
}  # fmt: skip


def golden_files(target: str) -> list[bytes]:
    """The golden files of a ``job`` or a ``result``; results of the id that the reader asks for."""
    found = [path.read_bytes() for path in sorted(GOLDEN.glob(f"{target}_v1_*.json"))]
    if target == "job":
        return found
    return [json.dumps(json.loads(one) | {"id": "a"}, ensure_ascii=False).encode() for one in found]


def seeds(target: str) -> Iterator[bytes]:
    """Inputs to begin with, from the golden files and the shipped tasks."""
    if target == "tasks-file":
        yield from (path.read_bytes() for path in TASK_FILES)
        yield b'[tasks.a]\nkind = "label"\n'
        return
    for whole in golden_files(target):
        yield whole
        if target == "job":
            yield COMPRESSED_MARK + whole
            yield whole + b"".join(FIELD_MARK + field for field in HASH_FIELDS)
            yield whole + FIELD_MARK + b"success_callback_name=os.getcwd"
    if target == "result":
        yield b'token\n{"task": "reply", "text": "ok"}'
        yield b'label\n{"sentiment": {"label": "a", "probability": 0.5, "scores": {"a": 0.5, "b": 0.5}}}'


#: What a value inside a JSON document is replaced with.
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        1,
        -1,
        2**70,
        0.5,
        1e308,
        "",
        " ",
        "\u597d",
        "\ud800",
        "\x1b[2J\n",
        "x" * 300,
        [],
        [[]],
        {},
    ),
    *(
        "sentiment",
        "reply",
        "zh",
        "truncate",
        "done",
        {"text": "a", "tasks": ["sentiment"]},
        {"metadata": {"k": [1]}},
    ),
)


def mutated(
    data: bytes, longest: int, seed: int, golden: Sequence[bytes], mutate: Callable[[bytes, int], bytes]
) -> bytes:
    """A third of the time bytes as libFuzzer's own mutator changes them, which leaves little JSON whole; else
    another value in one place of the JSON, or of one of ``golden`` where ``data`` is none."""
    chance = random.Random(seed)
    if chance.random() < 0.33:
        return mutate(data, longest)
    body, mark, rest = data.partition(FIELD_MARK)
    prefix = COMPRESSED_MARK if body.startswith(COMPRESSED_MARK) else b""
    try:
        document = json.loads(body.removeprefix(prefix))
    except (ValueError, RecursionError):
        document = json.loads(chance.choice(golden))
    changed = json.dumps(_with_another_value(document, chance)).encode()
    return (prefix + changed + mark + rest)[:longest]


def _with_another_value(value: Any, chance: random.Random) -> Any:
    if isinstance(value, dict | list) and value and chance.random() < 0.85:
        places = list(value) if isinstance(value, dict) else range(len(value))
        place = chance.choice(list(places))
        changed = value.copy()
        if chance.random() < 0.1:
            del changed[place]
        elif chance.random() < 0.1 and isinstance(changed, dict):
            changed[chance.choice(("v", "id", "text", "tasks", "lang", "metadata", "more"))] = chance.choice(
                VALUES
            )
        else:
            changed[place] = _with_another_value(value[place], chance)
        return changed
    return chance.choice(VALUES)
