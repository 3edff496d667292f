"""Spans of jobs and their texts, by OpenTelemetry: begun by ``intake``, made by ``delivery`` when a text or a
job has ended, from the times that were measured on its way (``trace``).

A job of one text is one span, ``process <queue>``, from its enqueueing to the writing of its result, with its
stages as children. So is a job of many; those of its texts that bring a trace context of their own have a
span each in their own traces. A forward pass that texts share is a span of a trace of its own: it links to
the spans it was for, and their ``prefill`` links back.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from opentelemetry.context import Context
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    set_span_in_context,
)
from opentelemetry.util.types import AttributeValue

from moodq_config.contracts import ModelRef
from moodq_config.errors import MoodqError
from moodq_config.otel import Tracers, context_of
from moodq_worker.items import Item, Job
from moodq_worker.trace import Pass, Stage, Trace

Attributes = dict[str, AttributeValue]


class Tracing:
    """``begin`` is called from the intake's thread, ``ended`` from delivery's."""

    def __init__(self, tracers: Tracers, model: ModelRef) -> None:
        self._sampled = tracers.sampled
        self._always = tracers.always
        self._model: Attributes = {
            "gen_ai.request.model": model.id,
            "moodq.model.revision": model.revision,
            "moodq.model.precision": model.precision,
        }

    def begin(self, jobs: Iterable[Job]) -> None:
        """Begin the spans of jobs that have just been read, as far as they are sampled."""
        for job in jobs:
            parent = job.claim.job.context.traceparent
            if len(job.items) == 1:
                [item] = job.items
                job.trace = item.trace = self._start(job, _own(item) or parent, item)
            else:
                job.trace = self._start(job, parent, None)
                for item in job.items:
                    own = _own(item)
                    item.trace = job.trace if own is None else self._start(job, own, item)
            if job.trace is not None:
                job.trace_id = _trace_id(job.trace)
            for item in job.items:
                if item.trace is not None:
                    item.trace_id = _trace_id(item.trace)

    def ended(self, items: Sequence[Item], jobs: Sequence[Job], outcomes: Sequence[str]) -> None:
        """Make the spans of items whose results have been written, and of jobs that have ended."""
        now = time.time_ns()
        for item in items:
            if item.trace is not None and item.trace is not item.job.trace:
                self._end(item.trace, item.job, [item], item.error, now)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if job.trace is not None:
                job.trace.span.set_attribute("moodq.job.outcome", outcome)
                errors = [item.error for item in job.items if item.error is not None]
                failed = errors[0] if errors and outcome != "done" else None
                self._end(job.trace, job, job.items, failed, now)

    def _start(self, job: Job, parent: str | None, item: Item | None) -> Trace | None:
        """The span of a job, or of one of its items; None if it is not sampled."""
        claim = job.claim
        queue = claim.queue.name
        attributes: Attributes = self._model | {
            "messaging.system": "rq",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.name": queue,
            "messaging.message.id": job.id if item is None else item.id,
            "moodq.job.id": job.id,
            "moodq.job.attempt": claim.attempt,
        }
        if item is None:
            attributes["messaging.batch.message_count"] = len(job.items) + job.skipped
        span = self._sampled.start_span(
            f"process {queue}",
            context=context_of(parent),
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            start_time=_ns(claim.enqueued_at),
        )
        return Trace(span) if span.is_recording() else None

    def _end(self, trace: Trace, job: Job, items: Sequence[Item], error: MoodqError | None, now: int) -> None:
        claim, span = job.claim, trace.span
        # Stages are timed by the monotonic clock; the claim was read from both.
        offset = claim.claimed_at - min((item.clock.claimed for item in items), default=0.0)
        if error is not None:
            span.set_attribute("error.type", str(error.code))
            span.set_status(Status(StatusCode.ERROR, str(error.code)))
        claimed = last = _ns(claim.claimed_at)
        self._child(span, "queue", _ns(claim.enqueued_at), claimed)
        for number, stage in enumerate(trace.stages):
            start, last = _ns(offset + stage.began), _ns(offset + stage.began + stage.seconds)
            if number == 0:
                self._child(span, "batch", claimed, start)
            self._stage(span, stage, start, last, offset)
        now = max(now, last)
        self._child(span, "deliver", last, now)
        span.end(now)

    def _stage(self, parent: Span, stage: Stage, start: int, end: int, offset: float) -> None:
        attributes: Attributes = {"moodq.tasks": stage.tasks}
        if stage.tokens is not None:
            attributes["gen_ai.usage.output_tokens"] = stage.tokens
        shared = stage.shared
        links = () if shared is None else (Link(self._pass_span(shared, start, end)),)
        self._child(parent, stage.name, start, end, attributes, links)

    def _pass_span(self, shared: Pass, start: int, end: int) -> SpanContext:
        """Made with the first text of the pass that ends; the others are known by then."""
        if shared.span is None:
            span = self._always.start_span(
                "forward_pass",
                context=Context(),
                attributes=self._model | {"moodq.tasks": shared.tasks, "moodq.batch.items": shared.items},
                links=[Link(trace.span.get_span_context()) for trace in shared.traces],
                start_time=start,
            )
            span.end(end)
            shared.span = span.get_span_context()
        context: SpanContext = shared.span
        return context

    def _child(
        self,
        parent: Span,
        name: str,
        start: int,
        end: int,
        attributes: Attributes | None = None,
        links: Sequence[Link] = (),
    ) -> None:
        span = self._always.start_span(
            name, context=set_span_in_context(parent, Context()), attributes=attributes, links=links,
            start_time=start,
        )  # fmt: skip
        span.end(end)


def _own(item: Item) -> str | None:
    return item.request.traceparent if item.request is not None else None


def _trace_id(trace: Trace) -> str:
    return f"{trace.span.get_span_context().trace_id:032x}"


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)
