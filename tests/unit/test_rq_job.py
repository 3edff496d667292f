"""What the worker makes of a job's hash, whoever wrote it."""

from __future__ import annotations

import json
import pickle
import sys
import zlib
from pathlib import Path

import pytest
from redis import Redis

from moodq_config.errors import BadInput, ErrorCode
from moodq_worker.rq_job import MIB, MoodqJob, SafeJSONSerializer, inflate, read_payload

#: Never connected: nothing here asks the server.
NOWHERE = Redis(host="127.0.0.1", port=1)

ITEM = {"id": "a", "text": "hello", "tasks": ["sentiment"]}
GOOD: list[object] = ["moodq.run", None, [{"v": 1, "items": [ITEM]}], {}]


def job_of(data: object, **fields: bytes) -> MoodqJob:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    job = MoodqJob("j", connection=NOWHERE)
    job.restore({b"data": zlib.compress(raw), **{name.encode(): value for name, value in fields.items()}})
    return job


def refused(job: MoodqJob) -> BadInput:
    with pytest.raises(BadInput) as caught:
        read_payload(job, max_items=10)
    return caught.value


def test_a_good_job_gives_its_raw_items() -> None:
    assert read_payload(job_of(GOOD), max_items=10) == [ITEM]


def test_data_that_was_not_compressed_is_read_too() -> None:
    job = MoodqJob("j", connection=NOWHERE)
    job.restore({b"data": json.dumps(GOOD).encode()})
    assert read_payload(job, max_items=10) == [ITEM]


def test_an_invalid_byte_spoils_only_the_string_it_is_in() -> None:
    items = [{"id": "a", "text": "MARK", "tasks": ["x"]}, {"id": "b", "text": "好", "tasks": ["x"]}]
    data = json.dumps(["moodq.run", None, [{"v": 1, "items": items}], {}]).encode().replace(b"MARK", b"\xff")
    first, second = read_payload(job_of(data), max_items=10)
    assert isinstance(first, dict)
    assert first["text"] == "\udcff"
    assert second == items[1]


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b"",
        b"[]",
        b"null",
        b'"moodq.run"',
        b"[" * 100_000,
        b'["moodq.run", null, [{"v": NaN}], {}]',
        json.dumps(["moodq.run", "an instance", [{"v": 1, "items": [ITEM]}], {}]).encode(),
        json.dumps(["moodq.run", None, [{"v": 1, "items": [ITEM]}], {"extra": 1}]).encode(),
        json.dumps(["moodq.run", None, [], {}]).encode(),
        json.dumps(["moodq.run", None, [{"v": 1, "items": "x"}], {}]).encode(),
        json.dumps(["moodq.run", None, [{"v": 1, "items": [ITEM]}], {}]).encode()[:-5],
    ],
)  # fmt: skip
def test_data_that_is_not_of_the_shape_is_broken_json(data: bytes) -> None:
    assert refused(job_of(data)).code == ErrorCode.BROKEN_JSON


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_another_version_is_refused_with_its_own_code(version: object) -> None:
    job = job_of(["moodq.run", None, [{"v": version, "items": [ITEM]}], {}])
    assert refused(job).code == ErrorCode.WRONG_VERSION


class Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.path,)


def test_a_pickle_is_never_loaded_whichever_field_it_is_in(tmp_path: Path) -> None:
    touched = tmp_path / "touched"
    poison = pickle.dumps(Canary(touched))
    job = job_of(poison, meta=poison, result=poison)
    assert refused(job).code == ErrorCode.BROKEN_JSON
    assert not touched.exists()
    pickle.loads(poison)
    assert touched.exists(), "the canary itself is broken"


def test_a_foreign_function_and_its_callbacks_are_never_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touched = tmp_path / "touched"
    (tmp_path / "moodq_canary.py").write_text(f"open({str(touched)!r}, 'w').close()\ndef run(*_): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    job = job_of(
        ["moodq_canary.run", None, [{"v": 1, "items": [ITEM]}], {}],
        success_callback_name=b"moodq_canary.run",
        failure_callback_name=b"moodq_canary.run",
        stopped_callback_name=b"moodq_canary.run",
    )
    assert refused(job).code == ErrorCode.UNKNOWN_FUNCTION
    assert (job.success_callback, job.failure_callback, job.stopped_callback) == (None, None, None)
    with pytest.raises(BadInput, match="unknown_function"):
        _ = job.func
    with pytest.raises(BadInput, match="unknown_function"):
        job.perform()
    assert not touched.exists()
    assert "moodq_canary" not in sys.modules


def test_a_job_that_names_a_callback_is_refused_even_for_the_right_function() -> None:
    job = job_of(GOOD, success_callback_name=b"os.getcwd")
    assert refused(job).code == ErrorCode.UNKNOWN_FUNCTION


def test_webhooks_in_the_hash_are_dropped() -> None:
    hook = json.dumps([{"url": "http://127.0.0.1:9/", "job_status": "finished"}]).encode()
    assert job_of(GOOD, webhooks=hook).webhooks == []


def test_the_message_of_a_refusal_does_not_repeat_a_long_function_name() -> None:
    assert len(refused(job_of(["x" * 10_000, None, [{}], {}])).message) < 300


def test_a_decompression_bomb_is_refused_before_it_fills_the_memory() -> None:
    bomb = zlib.compress(b"0" * (32 * MIB + 1), 9)
    assert len(bomb) < 100_000
    job = MoodqJob("j", connection=NOWHERE)
    job.restore({b"data": bomb, b"exc_info": bomb})
    assert refused(job).code == ErrorCode.JOB_TOO_LARGE
    assert job.to_dict()["data"] == bomb, "a refused job keeps its data as it was sent"


def test_data_of_exactly_the_limit_is_taken() -> None:
    assert len(inflate(zlib.compress(b"0" * MIB, 1), MIB)) == MIB


@pytest.mark.parametrize(
    "fields",
    [
        {"timeout": b"1 fortnight"},
        {"timeout": b"soon"},
        {"created_at": b"yesterday"},
        {"enqueued_at": b"\xff"},
        {"status": b"confused"},
        {"result_ttl": b"long"},
        {"dependency_ids": b"["},
        {"enqueue_at_front": b""},
        {"meta": b"2"},
        {"dependency_ids": b'{"a": 1}'},
        {"dependency_ids": b"[1]"},
        {"retry_intervals": b"5"},
        {"retry_intervals": b'["soon"]'},
        {"repeat_intervals": b"[-1]"},
        {"repeat_intervals": b"[1e300]"},
    ],
)
def test_a_hash_field_of_the_wrong_kind_refuses_the_job_and_leaves_it_fit_to_be_failed(
    fields: dict[str, bytes],
) -> None:
    job = job_of(GOOD, **fields)
    assert refused(job).code == ErrorCode.BROKEN_JSON
    assert job.to_dict()["data"] == zlib.compress(json.dumps(GOOD).encode())


def test_no_intervals_are_none() -> None:
    job = job_of(GOOD, retry_intervals=b"[]", retries_left=b"1")
    assert job.get_retry_interval() == 0


@pytest.mark.parametrize("job_id", ["a:b", "a.b", "a b", "ü", "\\xff"])
def test_a_job_id_that_rq_would_raise_on_makes_a_job_all_the_same(job_id: str) -> None:
    assert MoodqJob(job_id, connection=NOWHERE).id == job_id


def test_a_hash_without_data_is_refused_not_raised() -> None:
    job = MoodqJob("j", connection=NOWHERE)
    job.restore({b"status": b"started"})
    assert refused(job).code == ErrorCode.BROKEN_JSON


def test_the_serializer_writes_what_json_readers_of_other_languages_take() -> None:
    assert SafeJSONSerializer.dumps({"a": "好"}) == '{"a": "好"}'.encode()
    assert json.loads(SafeJSONSerializer.dumps({"a": "\udcff"})) == {"a": "\udcff"}
