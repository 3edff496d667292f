"""``docs/observability.md`` names exactly the fields of a job's line, and shows a trace as it was."""

from __future__ import annotations

import json
import logging
import re
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from moodq_config.contracts import ModelRef
from moodq_config.logs import JsonFormatter
from moodq_config.trace_context import JobContext
from moodq_worker.items import Clock
from moodq_worker.job_log import JobLog
from trace_picture import picture, read

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "observability.md").read_text("utf-8")
SPANS = DOCS / "observability" / "spans.jsonl"


def job_line(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    """The line of a job with everything that one may have."""
    clock = Clock(enqueued_at=time.time() - 0.2, claimed_at=time.time() - 0.1)
    told = SimpleNamespace(context=JobContext(request_id="req-1"))
    claim = SimpleNamespace(queue=SimpleNamespace(name="bulk"), attempt=1, job=told)
    item = SimpleNamespace(clock=clock, error=SimpleNamespace(code="engine_failed"))
    job: Any = SimpleNamespace(
        id="j", items=[item], skipped=0, claim=claim, trace_id="0af7651916cd43dd8448eb211c80319c"
    )
    with caplog.at_level(logging.INFO):
        lines = JobLog("all", worker="w", model=ModelRef(id="m", revision="r", precision="p"))
        lines.ended([job], ["failed"])
    formatter = JsonFormatter(always={"service.name": "moodq-worker"})
    found: dict[str, Any] = json.loads(formatter.format(caplog.records[0]))
    return found


def test_the_page_lists_every_field_of_a_job_s_line_and_no_other(caplog: pytest.LogCaptureFixture) -> None:
    rows = re.findall(
        r"^\| (`[@a-z][\w.@]*`(?:, `[\w.]+`)*) \|",
        PAGE.split("### Fields")[1].split("\n## ")[0],
        flags=re.MULTILINE,
    )
    documented = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert documented == set(job_line(caplog))


def test_the_line_that_the_page_shows_is_one(caplog: pytest.LogCaptureFixture) -> None:
    [shown] = re.findall(r"^```json\n(\{.*\})\n```$", PAGE, flags=re.MULTILINE)
    expected = job_line(caplog)
    for name in ("moodq.job.codes", "trace.id", "http.request.id"):  # of others
        del expected[name]
    assert list(json.loads(shown)) == list(expected)


def test_the_picture_of_a_trace_is_of_the_spans_beside_the_page() -> None:
    [shown] = re.findall(r"```\n(send interactive.*?)\n```", PAGE, flags=re.DOTALL)
    spans = read(SPANS)
    [trace] = {span["trace"] for span in spans if span["name"] == "send interactive"}
    assert shown == picture(spans, trace)
