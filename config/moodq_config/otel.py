"""OpenTelemetry in a process of moodq's own, the worker or a command: set up by the standard ``OTEL_*``
variables, and only if they name an endpoint.

A program that uses the client sets up OpenTelemetry itself; see ``moodq_producer.tracing``. The extra
``otel`` is imported when it is needed.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import SpanContext, Tracer

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
INSTALL = "pip install 'moodq[otel]'"
#: Seconds a process that ends gives the last spans.
FLUSH_S = 5.0


@dataclass(frozen=True, slots=True)
class Tracers:
    """``sampled`` asks the sampler that the environment names; ``always`` is for spans of which a sampled one
    needs to know."""

    sampled: Tracer
    always: Tracer
    _processor: Any
    _exporter: Any

    def close(self, timeout_s: float = FLUSH_S) -> None:
        """Send what is left, as far as that is possible in ``timeout_s``."""
        self._exporter.closing()
        ending = threading.Thread(target=self._processor.shutdown, name="otel-flush", daemon=True)
        ending.start()
        ending.join(timeout_s)


def tracing_wanted(environment: Mapping[str, str]) -> bool:
    """Whether the environment names where spans go."""
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    exporters = environment.get("OTEL_TRACES_EXPORTER", "otlp").split(",")
    return not off and "otlp" in map(str.strip, exporters) and any(environment.get(one) for one in ENDPOINTS)


def start_tracing(service: str, instance: str | None = None) -> Tracers | None:
    """Spans of this process, sent in the background; None when nobody asks for them, or the extra is not
    installed, which is told. Never raises for an endpoint that does not answer."""
    if not tracing_wanted(os.environ):
        return None
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ALWAYS_ON

        from moodq_config.otel_exporter import TellingExporter
    except ImportError as error:
        log.warning("OTEL_EXPORTER_OTLP_ENDPOINT is set, but there are no traces (%s); %s", error, INSTALL)
        return None
    ours = {"service.name": service, "service.version": version("moodq")}
    if instance is not None:
        ours["service.instance.id"] = instance
    given = OTELResourceDetector().detect().attributes
    resource = Resource.create({name: value for name, value in ours.items() if name not in given})
    exporter = TellingExporter(OTLPSpanExporter())
    processor = BatchSpanProcessor(exporter)
    sampled = TracerProvider(resource=resource, shutdown_on_exit=False)
    always = TracerProvider(resource=resource, sampler=ALWAYS_ON, shutdown_on_exit=False)
    for provider in (sampled, always):
        provider.add_span_processor(processor)
    trace.set_tracer_provider(sampled)
    moodq = ("moodq", version("moodq"))
    return Tracers(sampled.get_tracer(*moodq), always.get_tracer(*moodq), processor, exporter)


def span_context(parent: str) -> SpanContext:
    """The span that a usable traceparent names."""
    from opentelemetry.trace import SpanContext, TraceFlags

    _, trace_id, span_id, flags = parent.split("-")
    return SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags))
    )


def context_of(parent: str | None) -> Context:
    """Where a span begins: below the one that ``parent`` names, or in a trace of its own."""
    from opentelemetry.context import Context
    from opentelemetry.trace import NonRecordingSpan, set_span_in_context

    if parent is None:
        return Context()
    return set_span_in_context(NonRecordingSpan(span_context(parent)), Context())


@contextmanager
def traced_process(service: str) -> Iterator[None]:
    """Spans of a command, from here to its end."""
    tracers = start_tracing(service)
    try:
        yield
    finally:
        if tracers is not None:
            tracers.close()
