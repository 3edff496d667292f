"""The page of ``moodq eval --report``: one HTML file that needs nothing else, plots by matplotlib as SVG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moodq_worker.quality.screen import PART_NAMES

STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }
body { max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; margin: .5rem 0 1.5rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem; border-bottom: 1px solid #8884; text-align: right; }
th:first-child, td:first-child { text-align: left; }
figure { display: inline-block; margin: 0 1rem 1rem 0; background: #fff; }
"""


def page(document: dict[str, Any], title: str) -> str:
    """``document`` as ``evaluate.as_json`` makes it."""
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>",
        "<p>Figures with 95 % intervals by the bootstrap. Differences are to the first way, same texts;"
        " where its interval holds 0 it may be chance.</p>",
        _overview(document),
    ]
    for part, name in PART_NAMES.items():
        found = [(way["way"], way["parts"][part]) for way in document["ways"] if part in way["parts"]]
        if found:
            parts.append(f"<h2>{name.capitalize()}</h2>{_plots(found)}")
            parts += [_details(way, figures) for way, figures in found]
    return "\n".join([*parts, "</body></html>\n"])


def _overview(document: dict[str, Any]) -> str:
    head = ("way", "texts", "accuracy", "balanced", "ECE", "accuracy against the first", "items/s")
    rows = []
    for way in document["ways"]:
        for part, found in way["parts"].items():
            difference = found.get("difference", {}).get("accuracy")
            rows.append(
                (
                    f"{way['way']} ({way['model']['id']}, {way['model']['precision']})",
                    f"{found['texts']} {PART_NAMES[part]}",
                    _interval(found["accuracy"]),
                    _interval(found["balanced_accuracy"]),
                    _interval(found["ece"]),
                    _interval(difference, sign="+") if difference else "",
                    str(found["items_per_s"] or ""),
                )
            )
    return _table(head, rows)


def _details(way: str, found: dict[str, Any]) -> str:
    counts = [
        (label, *map(str, counts), f"{found['f1'][label]:.3f}")
        for label, counts in zip(found["labels"], found["confusion"], strict=True)
    ]
    bins = [
        (
            f"{b['from']:.1f} to {b['to']:.1f}",
            str(b["texts"]),
            f"{b['confidence']:.3f}",
            f"{b['accuracy']:.3f}",
        )
        for b in found["reliability"]
    ]
    covered = [
        (f"{s['coverage']:.0%}", f"{s['threshold']:.3f}", f"{s['accuracy']:.3f}")
        for s in found["at_coverage"]
    ]
    return (
        f"<h3>{escape(way)}</h3>"
        + _table((r"is \ given", *found["labels"], "F1"), counts)
        + _table(("probability given", "texts", "mean", "share right"), bins)
        + _table(("most certain", "from probability", "share right"), covered)
    )


def _plots(found: list[tuple[str, dict[str, Any]]]) -> str:
    def reliability(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
        for way, figures in found:
            bins = figures["reliability"]
            axes.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], "o-", label=way)
        axes.set(xlabel="probability given", ylabel="share right", title="What a probability means")

    def coverage(axes: Axes) -> None:
        for way, figures in found:
            steps = figures["at_coverage"]
            axes.plot([s["coverage"] for s in steps], [s["accuracy"] for s in steps], "o-", label=way)
        axes.set(xlabel="share of texts kept, most certain first", ylabel="share right",
                 title="Leaving out the least certain")  # fmt: skip

    return _svg(reliability) + _svg(coverage)


def _svg(draw: Any) -> str:
    figure = Figure(figsize=(5, 3.6), layout="constrained")
    axes = figure.add_subplot()
    draw(axes)
    axes.legend(fontsize="small")
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    svg = out.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}</figure>"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>"


def _interval(one: dict[str, float], sign: str = "") -> str:
    return f"{one['value']:{sign}.3f} ({one['low']:{sign}.3f} to {one['high']:{sign}.3f})"
