"""Traces from end to end: what real producers and workers send to an OTLP receiver, a process of its own."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from moodq_producer.client import Client

#: Types of the fixtures, see conftest.
StartFakeWorker = Callable[..., Any]
Push = Callable[..., Any]
Span = dict[str, Any]

RECEIVER = Path(__file__).parents[1] / "otlp_receiver.py"
WAIT_S = 20.0
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE, PARENT_SPAN = PARENT.split("-")[1:3]
STAGES = ["queue", "batch", "prefill", "deliver"]


@dataclass
class Receiver:
    file: Path
    port: int

    @property
    def environment(self) -> dict[str, str]:
        return {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{self.port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }

    def spans(self) -> list[Span]:
        if not self.file.exists():
            return []
        return [
            json.loads(line)
            for line in self.file.read_text("utf-8").splitlines(keepends=True)
            if "\n" in line
        ]

    def wait_for(self, name: str, count: int = 1) -> list[Span]:
        """All spans, once there are ``count`` of this name: a span is sent after its children."""
        deadline = time.monotonic() + WAIT_S
        while len([span for span in self.spans() if span["name"] == name]) < count:
            assert time.monotonic() < deadline, [span["name"] for span in self.spans()]
            time.sleep(0.02)
        return self.spans()

    def down(self, *, yes: bool) -> None:
        flag = self.file.with_suffix(".down")
        flag.touch() if yes else flag.unlink()


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    file = tmp_path / "spans.jsonl"
    process = subprocess.Popen([sys.executable, str(RECEIVER), str(file)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Receiver(file, int(process.stdout.readline()))
    finally:
        process.terminate()
        process.wait(WAIT_S)
        process.stdout.close()


def one(spans: list[Span], name: str, trace: str | None = None) -> Span:
    [found] = [span for span in spans if span["name"] == name and trace in (None, span["trace"])]
    return found


def children(spans: list[Span], parent: Span) -> list[Span]:
    return sorted(
        (span for span in spans if span["parent"] == parent["span"]), key=lambda span: span["start"]
    )


def id_of(span: Span) -> list[str]:
    return [span["trace"], span["span"]]


def run(code: str, redis_url: str, receiver: Receiver, cwd: Path) -> list[str]:
    """Lines that a program of somebody's prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **receiver.environment, "MOODQ_REDIS_URL": redis_url},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_message_sent_by_the_command_is_one_trace_from_its_sending_to_its_result(
    redis_url: str, receiver: Receiver, start_fake_worker: StartFakeWorker, tmp_path: Path
) -> None:
    worker = start_fake_worker(**receiver.environment, MOODQ_LOG_FORMAT="json")
    arguments = ["send", "a fine day", "--tasks", "sentiment,reply", "--id", "m1", "--json"]
    command = f"import sys; sys.argv = ['moodq', *{arguments}]; from moodq_config.cli import main; main()"
    [line] = run(command, redis_url, receiver, tmp_path)
    spans = receiver.wait_for("process interactive")
    spans = receiver.wait_for("send interactive")
    result = json.loads(line)

    send, process = one(spans, "send interactive"), one(spans, "process interactive")
    assert result["trace"] == send["trace"] == process["trace"]
    assert (send["parent"], process["parent"]) == ("", send["span"])
    assert (send["kind"], process["kind"]) == ("PRODUCER", "CONSUMER")
    assert send["resource"]["service.name"] == "moodq"
    assert process["resource"]["service.name"] == "moodq-worker"
    assert process["resource"]["service.instance.id"] == worker.name
    assert process["attributes"]["messaging.message.id"] == "m1"
    assert process["attributes"]["moodq.job.outcome"] == "done"
    assert process["attributes"]["moodq.model.precision"] == result["model"]["precision"]
    assert process["status"] == "UNSET"

    stages = children(spans, process)
    assert [stage["name"] for stage in stages] == [
        "queue",
        "batch",
        "prefill",
        "prefill",
        "decode",
        "deliver",
    ]
    assert {stage["trace"] for stage in stages} == {send["trace"]}
    assert stages[0]["start"] == process["start"]
    assert stages[-1]["end"] == process["end"]
    for before, after in pairwise(stages):
        assert before["start"] <= before["end"] <= after["start"] + 1_000
    told = result["timings_ms"]
    for name in ("queue", "batch", "prefill", "decode"):
        spent = sum(stage["end"] - stage["start"] for stage in stages if stage["name"] == name) / 1e6
        assert spent == pytest.approx(told[name], abs=0.05)
    assert stages[4]["attributes"]["gen_ai.usage.output_tokens"] == result["results"]["reply"]["tokens"]

    [logged] = [
        entry
        for entry in map(json.loads, worker.log.read_text("utf-8").splitlines())
        if entry.get("event.action") == "job"
    ]
    assert logged["trace.id"] == send["trace"]
    assert "a fine day" not in receiver.file.read_text("utf-8")


def test_texts_that_share_a_forward_pass_keep_their_own_traces_and_the_pass_links_to_each(
    redis_url: str, receiver: Receiver, start_fake_worker: StartFakeWorker
) -> None:
    start_fake_worker(**receiver.environment, MOODQ_BATCH_TOKENS="65536")
    own = [f"00-{number:032x}-{number:016x}-01" for number in range(1, 9)]
    items = [
        {"text": f"a day {number}", "id": f"i{number}", "traceparent": one} for number, one in enumerate(own)
    ]
    items.append({"text": "a day without", "id": "without"})
    with Client(redis_url) as client:
        found = client.wait([ticket.id for ticket in client.submit_many(items)], 10)
        results = {result.id: result for result in found}
    spans = receiver.wait_for("process bulk", 9)

    passed = one(spans, "forward_pass")
    assert passed["attributes"]["moodq.batch.items"] == 9
    assert passed["parent"] == ""
    mine = [span for span in spans if span["name"] == "process bulk"]
    assert sorted(passed["links"]) == sorted(map(id_of, mine))
    for number, parent in enumerate(own):
        _, trace, span_id, _ = parent.split("-")
        assert results[f"i{number}"].trace == trace
        process = one(spans, "process bulk", trace)
        assert process["parent"] == span_id
        assert process["attributes"]["messaging.message.id"] == f"i{number}"
        assert [stage["name"] for stage in children(spans, process)] == STAGES
        assert one(spans, "prefill", trace)["links"] == [id_of(passed)]
    [whole] = [span for span in mine if "messaging.batch.message_count" in span["attributes"]]
    assert whole["attributes"]["messaging.batch.message_count"] == 9
    assert whole["trace"] == results["without"].trace
    assert whole["trace"] not in {parent.split("-")[1] for parent in own}


PROGRAM = """
import asyncio
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from moodq_producer import AsyncClient, Client

provider = TracerProvider()
provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
trace.set_tracer_provider(provider)
tracer = trace.get_tracer("shop")

with Client() as client, tracer.start_as_current_span("a request"):
    print(client.submit("a fine day", id="one").wait(10).trace)
    texts = [f"line {number}" for number in range(250)]
    tickets = list(client.submit_many(texts, chunk=100))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    items = [client.item({"text": "a day", "id": id}) for id in ("three", "four")]
    client.submit_items(items, traceparent=parent)
    assert {result.trace for result in client.wait(["three", "four"], 10)} == {parent[3:35]}
    print(*{result.trace for result in client.wait([ticket.id for ticket in tickets], 10)})

async def main():
    async with AsyncClient() as client:
        with tracer.start_as_current_span("another request"):
            ticket = await client.submit("a bad day", id="two")
            print((await ticket.wait(10)).trace)

asyncio.run(main())
provider.shutdown()
"""


def test_a_program_with_traces_of_its_own_finds_its_messages_in_them_from_both_clients(
    redis_url: str, receiver: Receiver, start_fake_worker: StartFakeWorker, tmp_path: Path
) -> None:
    start_fake_worker(**receiver.environment)
    first, bulk, second = run(PROGRAM, redis_url, receiver, tmp_path)
    receiver.wait_for("process bulk", 3)
    spans = receiver.wait_for("process interactive", 3)
    named = one(spans, "send interactive", TRACE)
    assert named["parent"] == PARENT_SPAN
    assert one(spans, "process interactive", TRACE)["parent"] == named["span"]
    assert first == bulk == one(spans, "a request")["trace"]
    assert second == one(spans, "another request")["trace"]
    for name, trace in (("a request", first), ("another request", second)):
        send = one(spans, "send interactive", trace)
        assert send["parent"] == one(spans, name)["span"]
        assert one(spans, "process interactive", trace)["parent"] == send["span"]
    sends = [span for span in spans if span["name"] == "send bulk"]
    jobs = [span for span in spans if span["name"] == "process bulk"]
    assert {span["parent"] for span in sends} == {one(spans, "a request")["span"]}
    assert sorted(span["parent"] for span in jobs) == sorted(span["span"] for span in sends)
    assert sorted(span["attributes"]["messaging.batch.message_count"] for span in jobs) == [50, 100, 100]


def test_a_plain_rq_producer_passes_a_context_on_as_one_string_and_every_attempt_is_in_its_trace(
    receiver: Receiver, push: Push, start_fake_worker: StartFakeWorker, redis_url: str
) -> None:
    start_fake_worker(
        **receiver.environment, MOODQ_MAX_ATTEMPTS="2", MOODQ_RETRY_BACKOFF_S="0", MOODQ_LOG_FORMAT="json"
    )
    item = {"id": "r1", "text": "[[raise]]", "tasks": ["sentiment"], "traceparent": PARENT}
    push("r1", data=json.dumps(["moodq.run", None, [{"v": 1, "items": [item]}], {}]).encode(), retry=_retry())
    with Client(redis_url) as client:
        [result] = client.wait(["r1"], 10)
    assert result.trace == TRACE
    spans = receiver.wait_for("process interactive", 2)
    attempts = [span for span in spans if span["name"] == "process interactive"]
    assert {span["trace"] for span in attempts} == {TRACE}
    assert {span["parent"] for span in attempts} == {PARENT_SPAN}
    told = [
        (span["attributes"]["moodq.job.attempt"], span["attributes"]["moodq.job.outcome"], span["status"])
        for span in attempts
    ]
    assert sorted(told) == [(1, "retried", "ERROR"), (2, "failed", "ERROR")]
    assert {span["attributes"]["error.type"] for span in attempts} == {"engine_failed"}


def _retry() -> Any:
    from rq import Retry

    return Retry(max=1)


HOSTILE: list[Any] = [
    17,
    ["00"],
    {"a": {}},
    "",
    "garbage",
    PARENT.upper(),
    PARENT + "-more",
    PARENT[:-1],
    f"00-{'0' * 32}-{PARENT_SPAN}-01",
    f"ff{PARENT[2:]}",
    f"cc{PARENT[2:]}-{'x' * 100_000}",
    f"{PARENT}\n",
]


def test_a_context_that_is_none_is_ignored_and_the_text_is_done(
    push: Push, start_fake_worker: StartFakeWorker, redis_url: str
) -> None:
    start_fake_worker()
    for number, hostile in enumerate(HOSTILE):
        item = {"id": f"h{number}", "text": "a fine day", "tasks": ["sentiment"], "traceparent": hostile}
        payload = {"v": 1, "items": [item], "traceparent": hostile, "request_id": [hostile]}
        push(f"h{number}", data=json.dumps(["moodq.run", None, [payload], {}]).encode())
    with Client(redis_url) as client:
        results = list(client.wait([f"h{number}" for number in range(len(HOSTILE))], 10))
    assert [(result.status, result.trace) for result in results] == [("done", None)] * len(HOSTILE)


def test_an_unsampled_trace_has_no_spans_and_its_id_is_in_the_result_and_in_the_log(
    redis_url: str, receiver: Receiver, start_fake_worker: StartFakeWorker
) -> None:
    worker = start_fake_worker(**receiver.environment, MOODQ_LOG_FORMAT="json")
    with Client(redis_url) as client:
        quiet = client.submit("a fine day", traceparent=PARENT[:-2] + "00", request_id="req-7").wait(10)
        loud = client.submit("another day", traceparent=PARENT).wait(10)
    assert quiet.trace == loud.trace == TRACE
    spans = receiver.wait_for("process interactive")
    assert one(spans, "process interactive")["attributes"]["messaging.message.id"] == loud.id
    assert one(spans, "forward_pass")["links"] == [id_of(one(spans, "process interactive"))]
    lines = [json.loads(line) for line in worker.log.read_text("utf-8").splitlines()]
    logged = next(line for line in lines if line.get("moodq.job.id") == quiet.id)
    assert (logged["trace.id"], logged["http.request.id"]) == (TRACE, "req-7")


def test_the_buckets_of_latencies_name_a_trace_that_is_in_them(
    redis_url: str, receiver: Receiver, start_fake_worker: StartFakeWorker
) -> None:
    port = _free_port()
    start_fake_worker(**receiver.environment, MOODQ_METRICS_PORT=str(port))
    with Client(redis_url) as client:
        client.submit("an unsampled day", ["sentiment", "reply"], traceparent=PARENT[:-2] + "00").wait(10)
        result = client.submit("a fine day", ["sentiment", "reply"], traceparent=PARENT).wait(10)
    receiver.wait_for("process interactive")
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        page = answer.read().decode()
    found = dict(
        re.findall(r'^(moodq_\w+)_bucket\{[^}]*\} \S+ # \{trace_id="' + TRACE + r'"\} (\S+)', page, re.M)
    )
    assert found.keys() == {
        "moodq_e2e_request_latency_seconds",
        "moodq_request_queue_time_seconds",
        "moodq_request_batch_wait_seconds",
        "moodq_request_prefill_time_seconds",
        "moodq_request_decode_time_seconds",
        "moodq_time_to_first_token_seconds",
    }
    assert result.timings_ms is not None
    assert float(found["moodq_e2e_request_latency_seconds"]) == result.timings_ms.total / 1000
    assert page.count("# {") == page.count(f'trace_id="{TRACE}"')


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_collector_that_is_away_costs_no_work_is_told_once_and_does_not_hold_up_the_end(
    redis_url: str, receiver: Receiver, start_fake_worker: StartFakeWorker
) -> None:
    receiver.down(yes=True)
    worker = start_fake_worker(
        **receiver.environment, OTEL_EXPORTER_OTLP_TIMEOUT="1", OTEL_BSP_MAX_EXPORT_BATCH_SIZE="8"
    )
    with Client(redis_url) as client:
        for number in range(20):
            began = time.monotonic()
            assert client.submit(f"day {number}").wait(10).status == "done"
            assert time.monotonic() - began < 1.0
        _until(lambda: "spans cannot be sent" in worker.log.read_text())
        receiver.down(yes=False)
        _until(lambda: "spans are sent again" in worker.log.read_text())
        receiver.down(yes=True)
        client.submit("one more").wait(10)
        _until(lambda: worker.log.read_text().count("spans cannot be sent") == 2)
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < 6.0
    told = [line for line in worker.log.read_text().splitlines() if "opentelemetry" in line or "span" in line]
    assert len(told) == 3, told


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
