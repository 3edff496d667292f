"""From texts to RQ jobs, without a server: what is checked, what the hash holds, how ids are made."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis
from rq.job import JOB_ID_PATTERN, Job
from rq.serializers import JSONSerializer

from moodq_config.errors import BadInput, ConfigError, ErrorCode
from moodq_config.names import job_id
from moodq_config.settings import Settings, load_settings
from moodq_producer.enqueue import QueuedJob
from moodq_producer.jobs import JobMaker, chunks

UNCONNECTED = Redis(port=1)


def maker(**settings: Any) -> JobMaker:
    return JobMaker(load_settings(redis_url="redis://127.0.0.1:1", **settings))


def job_of(*texts: str, **settings: Any) -> QueuedJob:
    made = maker(**settings)
    return made.job([made.item(text, "sentiment") for text in texts], "interactive", UNCONNECTED)


def hash_of(job: QueuedJob) -> dict[str, Any]:
    fields = maker().gate.script_args(job)[10:]
    return {str(name): value for name, value in zip(fields[::2], fields[1::2], strict=True)}


def as_stored(value: str | bytes | int) -> bytes:
    """What redis-py sends: of an enum of strings its value."""
    if isinstance(value, bytes):
        return value
    return value.encode() if isinstance(value, str) else str(value).encode()


def read_by_rq(job: QueuedJob) -> Job:
    read = Job(job.id, connection=UNCONNECTED, serializer=JSONSerializer)
    read.restore({name.encode(): as_stored(value) for name, value in hash_of(job).items()})
    return read


def test_rq_reads_the_job_with_its_own_json_serializer() -> None:
    job = read_by_rq(job_of("太棒了！", "bad"))
    assert job.func_name == "moodq.run"
    assert [item["text"] for item in job.args[0]["items"]] == ["太棒了！", "bad"]
    assert job.args[0]["v"] == 1
    assert job.kwargs == {}
    assert job.origin == "interactive"
    assert job.timeout == -1
    assert job.enqueued_at is not None


def test_times_and_attempts_follow_the_settings() -> None:
    job = read_by_rq(job_of("x", max_attempts=5, result_ttl_s=60, failure_ttl_s=90))
    assert (job.retries_left, job.result_ttl, job.failure_ttl) == (4, 60, 90)


def test_one_attempt_means_no_retry() -> None:
    assert read_by_rq(job_of("x", max_attempts=1)).retries_left is None


def test_the_description_counts_and_never_repeats_a_text() -> None:
    assert read_by_rq(job_of("my secret")).description == "moodq: 1 item"
    assert read_by_rq(job_of("my secret", "another")).description == "moodq: 2 items"


def test_a_single_item_gives_its_id_to_its_job() -> None:
    job = job_of("x")
    assert job.id == job.item_ids[0]


@pytest.mark.parametrize("ids", [["a.b"], ["a", "b"], ["a.b", "c"]])
def test_other_job_ids_follow_from_the_items_and_rq_accepts_them(ids: list[str]) -> None:
    assert job_id(ids) == job_id(list(ids))
    assert job_id(ids) != job_id([*ids, "more"])
    assert JOB_ID_PATTERN.fullmatch(job_id(ids))


def test_an_item_may_be_a_text_a_mapping_or_a_request_item() -> None:
    made = maker()
    item = made.item("hi", ["sentiment"], lang="en")
    assert made.item(item, "reply") == item
    assert made.item({"text": "hi", "id": item.id, "lang": "en"}, "sentiment") == item


@pytest.mark.parametrize(
    ("source", "code"),
    [
        ("", ErrorCode.EMPTY_TEXT),
        ("x" * 11, ErrorCode.TEXT_TOO_LONG),
        ("\ud800", ErrorCode.INVALID_UTF8),
        ({"text": "x", "tasks": ["mood"]}, ErrorCode.UNKNOWN_TASK),
        ({"text": "x", "id": "a:b"}, ErrorCode.INVALID_FIELD),
        ({"txt": "x"}, ErrorCode.INVALID_FIELD),
        (7, ErrorCode.INVALID_FIELD),
    ],
)
def test_bad_input_is_refused_at_the_edge_with_its_code(source: Any, code: ErrorCode) -> None:
    with pytest.raises(BadInput) as caught:
        maker(max_text_chars=10).item(source, "sentiment")
    assert caught.value.code == code


def test_the_wrong_one_of_many_is_named_by_its_number() -> None:
    items = maker().numbered_items(["fine", "fine too", "  "], "sentiment", None)
    assert next(items).text == "fine"
    assert next(items).text == "fine too"
    with pytest.raises(BadInput, match="item 2: text is empty"):
        next(items)


def test_a_queue_that_no_worker_serves_is_refused() -> None:
    with pytest.raises(ConfigError, match="'intractive' is not one of MOODQ_QUEUES"):
        maker().check_queue("intractive")


@pytest.mark.parametrize("size", [0, 1_001])
def test_a_chunk_that_no_worker_would_take_is_refused(size: int) -> None:
    with pytest.raises(ConfigError, match="accepted: 1 to 1000"):
        maker().chunk_size(size)


def test_settings_object_is_taken_as_it_is() -> None:
    settings = Settings(redis_url="redis://h", max_text_chars=3)
    with pytest.raises(BadInput, match="the limit is 3"):
        JobMaker(settings).item("four", "sentiment")


def test_chunks_reads_no_further_than_it_has_to() -> None:
    source = iter(range(10))
    assert next(chunks(source, 4)) == [0, 1, 2, 3]
    assert next(source) == 4
    assert list(chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]


def test_ids_begin_with_the_prefix_of_the_settings() -> None:
    shop = maker(id_prefix="shop-", queues=("shop",))
    made = shop.item("hello", "sentiment")
    assert made.id.startswith("shop-")
    assert shop.job([made], "shop", UNCONNECTED).id == made.id
    dotted = shop.item("hello", "sentiment", id="shop-a.b")
    assert shop.job([dotted], "shop", UNCONNECTED).id.startswith("shop-item-")
    assert shop.job([made, dotted], "shop", UNCONNECTED).id.startswith("shop-chunk-")
    with pytest.raises(BadInput, match="MOODQ_ID_PREFIX"):
        shop.item("hello", "sentiment", id="bank-1")
