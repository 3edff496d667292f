"""A trace as text: its spans as bars over time, and what they link to.

``python tests/trace_picture.py FILE TRACE`` reads what ``otlp_receiver.py`` has written. The picture in
``docs/observability.md`` is of ``docs/observability/spans.jsonl``; a test holds the two together.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

WIDTH = 44
Span = dict[str, Any]


def read(file: Path) -> list[Span]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def picture(spans: list[Span], trace: str) -> str:
    """Lines of the trace's spans, each under its parent, then of the forward passes they link to."""
    mine = sorted((span for span in spans if span["trace"] == trace), key=lambda span: span["start"])
    linked = {tuple(link) for span in mine for link in span["links"]}
    passes = sorted(
        (span for span in spans if (span["trace"], span["span"]) in linked), key=lambda span: span["start"]
    )
    began = min(span["start"] for span in mine)
    length = max(span["end"] for span in mine) - began
    rows = [(name, span, "") for name, span in _below(mine, "", 0)]
    for number, span in enumerate(passes, 1):
        rows.append((f"forward_pass {number}", span, _about(span)))
    width = max(len(name) for name, _, _ in rows)
    lines: list[str] = []
    for name, span, about in rows:
        if passes and span is passes[0]:
            lines.append("")
        start = min(WIDTH - 1, round((span["start"] - began) / length * WIDTH))
        end = max(start + 1, round((span["end"] - began) / length * WIDTH))
        bar = (" " * start + "█" * (end - start)).ljust(WIDTH)
        milliseconds = (span["end"] - span["start"]) / 1e6
        said = f"{name:<{width}} {bar} {milliseconds:8.1f} ms  {about or _links(span, passes)}"
        lines.append(said.rstrip())
    return "\n".join(lines)


def _below(spans: list[Span], parent: str, depth: int) -> list[tuple[str, Span]]:
    found = []
    known = {span["span"] for span in spans}
    for span in spans:
        if span["parent"] == parent or (parent == "" and span["parent"] not in known):
            found += [("  " * depth + span["name"], span), *_below(spans, span["span"], depth + 1)]
    return found


def _links(span: Span, passes: list[Span]) -> str:
    numbers = [number for number, one in enumerate(passes, 1) if [one["trace"], one["span"]] in span["links"]]
    return " ".join(f"→ forward_pass {number}" for number in numbers)


def _about(span: Span) -> str:
    traces = len({trace for trace, _ in span["links"]})
    return f"{span['attributes']['moodq.tasks']}, links to {traces} traces"


if __name__ == "__main__":
    sys.stdout.write(picture(read(Path(sys.argv[1])), sys.argv[2]) + "\n")
