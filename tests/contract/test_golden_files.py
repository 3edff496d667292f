"""What is on the wire today must be readable tomorrow: these files are never edited, only added to.

A change that breaks one of them is a new contract version.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from moodq_config.contracts import ItemLimits, Result, job_payload, parse_item, payload_context, payload_items
from moodq_config.conversations import Routed
from moodq_config.names import JOB_FUNCTION
from moodq_config.settings import load_settings
from moodq_config.worker_info import WorkerInfo
from moodq_producer.jobs import JobMaker

GOLDEN = Path(__file__).parent / "golden"
JOBS = sorted(GOLDEN.glob("job_v1_*.json"))
RESULTS = sorted(GOLDEN.glob("result_v1_*.json"))
LIMITS = ItemLimits(
    max_text_chars=8_000,
    task_names=frozenset({"sentiment", "reply", "topic", "rerank"}),
    needs={"topic": "labels", "rerank": "documents"},
)


def content(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def without_order(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)


def test_there_are_golden_files() -> None:
    assert len(JOBS) >= 2
    assert len(RESULTS) >= 3


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_a_job_is_read_and_written_as_it_was(path: Path) -> None:
    function, instance, args, kwargs = content(path)
    assert (function, instance, kwargs) == (JOB_FUNCTION, None, {})
    items = [parse_item(raw, LIMITS) for raw in payload_items(args, max_items=10)]
    assert without_order(job_payload(items, payload_context(args))) == without_order(args[0])


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.stem)
def test_the_producer_puts_exactly_this_on_the_wire(path: Path) -> None:
    maker = JobMaker(load_settings(redis_url="redis://127.0.0.1:1"))
    args = content(path)[2]
    items = [maker.item(raw, ()) for raw in args[0]["items"]]
    fields = maker.job(items, "interactive", Redis(port=1), payload_context(args)).fields
    data = zlib.decompress(bytes(fields[fields.index("data") + 1]))  # type: ignore[arg-type]
    assert without_order(json.loads(data)) == without_order(content(path))
    assert b"\\u" not in data


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_a_result_is_read_and_written_as_it_was(path: Path) -> None:
    result = Result.model_validate_json(path.read_bytes())
    written = result.model_dump_json(exclude_none=True)
    assert without_order(json.loads(written)) == without_order(content(path))
    assert list(json.loads(written)) == list(content(path))


WORKERS = sorted(GOLDEN.glob("worker_v1_*.json"))


@pytest.mark.parametrize("path", WORKERS, ids=lambda path: path.stem)
def test_what_a_worker_tells_of_itself_is_read_and_written_as_it_was(path: Path) -> None:
    info = WorkerInfo.model_validate_json(path.read_text("utf-8"))
    assert without_order(info.model_dump(mode="json", exclude_none=True)) == without_order(content(path))


MESSAGES = sorted(GOLDEN.glob("routed_v1_*.json"))


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_a_message_for_a_person_is_read_and_written_as_it_was(path: Path) -> None:
    written = Routed.model_validate_json(path.read_bytes()).model_dump_json(exclude_none=True)
    assert without_order(json.loads(written)) == without_order(content(path))
    assert list(json.loads(written)) == list(content(path))
