"""What counts as a trace context, and a process that has no use for OpenTelemetry, or does not have it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.trace import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from moodq_config.otel import tracing_wanted
from moodq_config.trace_context import JobContext, trace_id_of, traceparent, usable_traceparent

GIVEN = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.integers(0, 255))
def test_a_span_s_context_is_read_back_and_means_the_same_to_opentelemetry(
    trace: int, span: int, flags: int
) -> None:
    written = traceparent(trace, span, flags)
    assert usable_traceparent(written) == written
    assert int(trace_id_of(written), 16) == trace
    context = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": written}))
    read = context.get_span_context()
    assert (read.trace_id, read.span_id, read.trace_flags) == (trace, span, flags & 1)


@given(
    st.one_of(
        st.text(max_size=300), st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(-.{0,9})?")
    )
)
def test_whatever_is_usable_is_usable_to_opentelemetry_as_well(value: str) -> None:
    usable = usable_traceparent(value)
    if usable is not None:
        found = get_current_span(TraceContextTextMapPropagator().extract({"traceparent": value}))
        context = found.get_span_context()
        assert traceparent(context.trace_id, context.span_id, context.trace_flags) == usable


def test_a_later_version_of_the_standard_may_say_more_and_is_passed_on_as_the_version_that_is_known() -> None:
    assert usable_traceparent(f"01{GIVEN[2:]}-what-comes-then") == GIVEN
    assert usable_traceparent(GIVEN[:-2] + "ff") == GIVEN  # only `sampled` is known


def test_the_context_of_a_job_is_what_is_usable_of_it() -> None:
    assert JobContext.of({"traceparent": GIVEN, "request_id": "req-1"}).fields() == {
        "traceparent": GIVEN,
        "request_id": "req-1",
    }
    for request_id in ("a b", "a\n", "", "x" * 129, 7, None, ["a"]):
        assert JobContext.of({"traceparent": "?", "request_id": request_id}).fields() == {}


def test_traces_are_wanted_when_the_standard_variables_name_an_endpoint() -> None:
    there = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}
    assert tracing_wanted(there)
    assert tracing_wanted({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"})
    assert tracing_wanted({**there, "OTEL_TRACES_EXPORTER": "otlp"})
    assert not tracing_wanted({})
    assert not tracing_wanted({"OTEL_EXPORTER_OTLP_ENDPOINT": ""})
    assert not tracing_wanted({**there, "OTEL_TRACES_EXPORTER": "none"})
    assert not tracing_wanted({**there, "OTEL_SDK_DISABLED": "true"})


def outcome(code: str, **environment: str) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip(), done.stderr


STARTS = "from moodq_config.otel import start_tracing; print(start_tracing('x'))"


def test_without_an_endpoint_nothing_that_makes_or_sends_spans_is_even_imported() -> None:
    code = (
        "import sys, moodq_worker.wiring, moodq_worker.delivery, moodq_worker.intake, moodq_producer.client;"
        f"{STARTS}; print({{'opentelemetry.sdk.trace', 'opentelemetry.exporter'}} & sys.modules.keys())"
    )
    assert outcome(code) == ("None\nset()", "")


def test_without_the_extra_a_process_runs_without_traces_and_says_how_to_get_them() -> None:
    code = f"import sys; sys.modules['opentelemetry.sdk.trace'] = None; {STARTS}"
    printed, told = outcome(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert printed == "None"
    assert "pip install 'moodq[otel]'" in told
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({}, "x"),
        ({"OTEL_SERVICE_NAME": "mine"}, "mine"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=its"}, "its"),
    ],
)
def test_the_name_of_the_service_is_ours_unless_the_environment_has_one(
    environment: dict[str, str], name: str
) -> None:
    code = (
        "from moodq_config.otel import start_tracing; found = start_tracing('x', 'one');"
        "print(found.sampled.resource.attributes['service.name']); found.close()"
    )
    printed, _ = outcome(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1", **environment)
    assert printed == name
