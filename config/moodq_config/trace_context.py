"""The W3C trace context as a job carries it: one string. OpenTelemetry is not needed to pass it on.

A producer writes it, ``contracts`` reads it, the worker's spans and results go on with it. It comes from
strangers and decides nothing but where spans are shown: what is not usable is ignored, as the standard says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Version, trace id, parent id, flags; no id may be all zeros.
_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})"
)
_LENGTH = 55
#: A later version of the standard may append to it; longer is not looked at.
MAX_TRACEPARENT_CHARS = 256
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.\-]{1,128}")


@dataclass(frozen=True, slots=True)
class JobContext:
    """What a job says beside its items: ``traceparent``, of those that bring none of their own, and the id of
    the HTTP request it came with."""

    traceparent: str | None = None
    request_id: str | None = None

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> JobContext:
        """As far as it is usable, from the argument of a job."""
        request_id = payload.get("request_id")
        known = isinstance(request_id, str) and _REQUEST_ID.fullmatch(request_id) is not None
        return cls(usable_traceparent(payload.get("traceparent")), request_id if known else None)

    def fields(self) -> dict[str, str]:
        """As it stands in a job's argument."""
        given = {"traceparent": self.traceparent, "request_id": self.request_id}
        return {name: value for name, value in given.items() if value is not None}


NO_CONTEXT = JobContext()


def usable_traceparent(value: object) -> str | None:
    """``value`` in the form of version 00, or None if it is no traceparent."""
    if not isinstance(value, str) or not _LENGTH <= len(value) <= MAX_TRACEPARENT_CHARS:
        return None
    match = _TRACEPARENT.match(value)
    if match is None:
        return None
    version, trace_id, span_id, flags = match.groups()
    if len(value) > _LENGTH and (version == "00" or value[_LENGTH] != "-"):
        return None
    return traceparent(int(trace_id, 16), int(span_id, 16), int(flags, 16))


def traceparent(trace_id: int, span_id: int, flags: int) -> str:
    """The string for a span; of the flags only ``sampled`` is passed on."""
    return f"00-{trace_id:032x}-{span_id:016x}-{flags & 1:02x}"


def trace_id_of(parent: str) -> str:
    """The 32 hexadecimal digits of the trace in a usable traceparent."""
    return parent[3:35]
