"""The span of sending a job, ``send <queue>``, and the trace context that the job carries from there on.

As a library does it: by the API of OpenTelemetry, in whatever way the program around has set it up, as a
child of the span it is in. Where it has not been set up nothing is done and nothing imported, and what is
sent carries only a context that its caller names.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from moodq_config.contracts import RequestItem
from moodq_config.otel import context_of, span_context
from moodq_config.trace_context import NO_CONTEXT, JobContext, traceparent, usable_traceparent

if TYPE_CHECKING:
    from opentelemetry.trace import Span

Sent = tuple[list[RequestItem], JobContext]


@contextmanager
def sending(
    queue: str,
    chunks: Sequence[list[RequestItem]],
    request_id: str | None = None,
    parent: str | None = None,
) -> Iterator[list[Sent]]:
    """A span for each of ``chunks``, which is sent as a job, until the end of the ``with``; gives the items
    and the context of each job. The context of a single item goes over to its job's. ``parent``
    is the traceparent that the sending itself goes on with, if it is not the span around the call."""
    parent = usable_traceparent(parent)
    api = _set_up()
    if api is None:
        known = request_id is not None or parent is not None
        context = JobContext(parent, request_id) if known else NO_CONTEXT
        yield [(items, context) for items in chunks]
        return
    spans: list[Span] = []
    sent: list[Sent] = []
    for items in chunks:
        span = _start(api, queue, items, parent)
        spans.append(span)
        context = JobContext(_traceparent(span), request_id)
        if len(items) == 1 and context.traceparent is not None:
            items = [items[0].model_copy(update={"traceparent": None})]
        sent.append((items, context))
    try:
        yield sent
    except Exception as error:
        for span in spans:
            span.set_attribute("error.type", str(getattr(error, "code", type(error).__name__)))
            span.set_status(api.StatusCode.ERROR)
        raise
    finally:
        for span in spans:
            span.end()


def _set_up() -> Any:
    """``opentelemetry.trace``, if the program has given it somewhere to send spans; else None."""
    api = sys.modules.get("opentelemetry.trace")  # redis-py imports it wherever it is installed
    return None if api is None or isinstance(api.get_tracer_provider(), api.ProxyTracerProvider) else api


def _start(api: Any, queue: str, items: Sequence[RequestItem], parent: str | None) -> Span:
    own = [item.traceparent for item in items if item.traceparent is not None]
    single = len(items) == 1
    if single and own:
        parent = own[0]
    span: Span = api.get_tracer("moodq").start_span(
        f"send {queue}",
        context=None if parent is None else context_of(parent),
        kind=api.SpanKind.PRODUCER,
        attributes={
            "messaging.system": "rq",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.destination.name": queue,
            **({"messaging.message.id": items[0].id} if single else {}),
            **({} if single else {"messaging.batch.message_count": len(items)}),
        },
        links=[] if single else [api.Link(span_context(one)) for one in own],
    )
    return span


def _traceparent(span: Span) -> str | None:
    context = span.get_span_context()
    return traceparent(context.trace_id, context.span_id, context.trace_flags) if context.is_valid else None
