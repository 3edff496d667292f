"""``moodq demo``: 40 messages through a real queue, a real worker and the real model, and what came out.

The messages go through ``moodq send`` like anyone's: the worker does not import the producer.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from moodq_config.errors import MoodqError
from moodq_config.printable import printable
from moodq_config.settings import Settings
from moodq_worker.up import running

STAGES = ("queue", "batch", "prefill", "decode", "total")
SEND_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Message:
    text: str
    label: str | None = None


def messages() -> list[Message]:
    """The demo's messages, with the label a person would give where one is clear."""
    text = resources.files("moodq_worker").joinpath("demo_messages.toml").read_text("utf-8")
    return [Message(**entry) for entry in tomllib.loads(text)["messages"]]


def run_demo(settings: Settings, say: Callable[[str], None]) -> int:
    """Set up, send, print, stop. Returns the exit code: 0 when every message has a result."""
    sent = messages()
    with running(settings, say) as service:
        say(f"sending {len(sent)} messages for sentiment and reply")
        began = time.monotonic()
        results = _send([message.text for message in sent], service.env)
        spent = time.monotonic() - began
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(_table(sent, results))
    console.print(_summary(sent, results, spent))
    console.print(_closing(sent, results))
    return 0 if all(result["status"] == "done" for result in results) else 3


def _send(texts: Sequence[str], env: dict[str, str]) -> list[dict[str, Any]]:
    command = [
        sys.executable, "-m", "moodq_config.cli", "send", "-", "--tasks", "sentiment,reply", "--json",
        "--timeout", str(SEND_TIMEOUT_S),
    ]  # fmt: skip
    done = subprocess.run(
        command, input="\n".join(texts).encode(), env=env, stdout=subprocess.PIPE, check=False
    )
    lines = done.stdout.decode("utf-8").splitlines()
    if len(lines) != len(texts):
        raise MoodqError(
            f"`moodq send` ended with {done.returncode} and {len(lines)} of {len(texts)} results"
        )
    return [json.loads(line) for line in lines]


def _table(sent: Sequence[Message], results: Sequence[dict[str, Any]]) -> Table:
    table = Table(
        "message", "label", "p", "reply", *(f"{stage} ms" for stage in STAGES), show_lines=False, expand=True
    )
    for column in table.columns[4:]:
        column.justify = "right"
    for message, result in zip(sent, results, strict=True):
        timings = result.get("timings_ms", {})
        row = [f"{timings[stage]:.0f}" if stage in timings else "" for stage in STAGES]
        if result["status"] != "done":
            table.add_row(_cell(message.text), "failed", "", _cell(result["error"]["message"]), *row)
            continue
        sentiment, reply = result["results"]["sentiment"], result["results"]["reply"]
        mark = "" if message.label in (None, sentiment["label"]) else f" (expected {message.label})"
        table.add_row(
            _cell(message.text),
            _cell(sentiment["label"] + mark),
            f"{sentiment['probability']:.2f}",
            _cell(reply["text"]),
            *row,
        )
    return table


def _cell(text: str) -> Text:
    """As Text: a ``[b]`` in a message is no markup."""
    return Text(printable(text))


def _summary(sent: Sequence[Message], results: Sequence[dict[str, Any]], spent: float) -> Table:
    done = [result for result in results if result["status"] == "done"]
    table = Table(
        "", "p50 ms", "p95 ms", title=f"{len(done)} of {len(sent)} done, {len(done) / spent:.1f} items/s"
    )
    for stage in STAGES:
        values = sorted(result["timings_ms"][stage] for result in done)
        if values:
            p95 = values[min(len(values) - 1, round(0.95 * (len(values) - 1)))]
            table.add_row(stage, f"{statistics.median(values):.0f}", f"{p95:.0f}")
    return table


def _closing(sent: Sequence[Message], results: Sequence[dict[str, Any]]) -> str:
    judged = [
        result["results"]["sentiment"]["label"] == message.label
        for message, result in zip(sent, results, strict=True)
        if message.label and result["status"] == "done"
    ]
    model = next((result["model"] for result in results if result["status"] == "done"), None)
    lines = []
    if judged:
        share = sum(judged) / len(judged)
        lines.append(f"accuracy {share:.2f} over {len(judged)} messages with an expected label")
    if model:
        lines.append(f"model {model['id']} {model['revision']}, {model['precision']}")
    return "\n".join(lines)
