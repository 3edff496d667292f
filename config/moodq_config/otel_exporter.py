"""The exporter of spans that tells of its troubles once, not once a batch, and does not hold up an end.

Between OpenTelemetry's batch processor, whose thread it runs in, and its OTLP exporter. Needs the extra
``otel``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = logging.getLogger(__name__)

#: Loggers of OpenTelemetry that tell the same again with every batch and every span.
_REPEATING = ("opentelemetry.exporter.otlp", "opentelemetry.sdk._shared_internal")


class TellingExporter(SpanExporter):
    """``exporter``, whose failures are logged when they begin and when they end."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._lost = 0
        self._closing = False
        for name in _REPEATING:
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if self._closing and self._lost:
            return SpanExportResult.FAILURE
        try:
            outcome = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - the thread must live on, whatever the exporter meets
            log.debug("spans not sent: %s", error)
            outcome = SpanExportResult.FAILURE
        if outcome is not SpanExportResult.SUCCESS:
            if not self._lost:
                log.warning("spans cannot be sent to the OTLP endpoint; they are dropped until it takes them")
            self._lost += len(spans)
        elif self._lost:
            log.info("spans are sent again; at least %d were lost", self._lost)
            self._lost = 0
        return outcome

    def closing(self) -> None:
        """The process ends: an endpoint that does not answer is not tried again."""
        self._closing = True
        if self._lost:
            self._exporter.shutdown()

    def shutdown(self) -> None:
        if not (self._closing and self._lost):
            self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)
