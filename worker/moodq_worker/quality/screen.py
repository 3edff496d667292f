"""The figures of ``moodq eval`` as tables for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

PART_NAMES = {"zh": "Chinese", "en": "English", "all": "all texts"}


def show(console: Console, document: dict[str, Any]) -> None:
    """``document`` as ``evaluate.as_json`` makes it."""
    overview = Table(title="with 95 % intervals", title_justify="left")
    for column in ("way", "texts", "accuracy", "balanced", "ECE", "accuracy against the first", "items/s"):
        overview.add_column(column)
    for way in document["ways"]:
        for part, found in way["parts"].items():
            overview.add_row(
                way["way"],
                f"{found['texts']} {PART_NAMES[part]}",
                _interval(found["accuracy"]),
                _interval(found["balanced_accuracy"]),
                _interval(found["ece"]),
                _difference(found["difference"]["accuracy"]) if "difference" in found else "",
                str(found["items_per_s"] or "-"),
            )
    console.print(overview)
    for way in document["ways"]:
        for part in ("zh", "en"):
            if part in way["parts"]:
                _details(console, f"{way['way']}, {PART_NAMES[part]}", way["parts"][part])


def show_tuned(console: Console, document: dict[str, Any]) -> None:
    """``document`` as ``moodq tune`` makes it: each prompt as in its file, and with a calibration fitted."""
    for lang in dict.fromkeys(one["lang"] for one in document["tried"]):
        rows = [one for one in document["tried"] if one["lang"] == lang]
        title = f"{PART_NAMES[lang]}, {rows[0]['texts']} texts, with 95 % intervals; T is the temperature"
        table = Table(title=title, title_justify="left")
        for column in ("prompt", "calibration", "log loss", "accuracy", "ECE", "against the first", "chosen"):
            table.add_column(column)
        for one in rows:
            fitted = ", ".join(
                [f"T {one['temperature']:g}", *(f"{k} {v:+g}" for k, v in one["bias"].items() if v)]
            )
            for name, told, difference, kept in (
                ("as_is", "as in the file", "", not one["fit_kept"]),
                ("fitted", fitted, _difference(one["difference"]["log_loss"]), one["fit_kept"]),
            ):
                table.add_row(
                    one["prompt"],
                    told,
                    _interval(one[name]["log_loss"]),
                    _interval(one[name]["accuracy"]),
                    _interval(one[name]["ece"]),
                    difference,
                    "yes" if one["chosen"] and kept else "",
                )
        console.print(table)


def _details(console: Console, title: str, found: dict[str, Any]) -> None:
    counts = Table("is \\ given", *found["labels"], "F1", title=title, title_justify="left")
    for label, row in zip(found["labels"], found["confusion"], strict=True):
        counts.add_row(label, *map(str, row), f"{found['f1'][label]:.3f}")
    console.print(counts)
    bins = Table(
        "probability", "texts", "mean", "right", title="what a probability means", title_justify="left"
    )
    for one in found["reliability"]:
        bins.add_row(
            f"{one['from']:.1f} to {one['to']:.1f}",
            str(one["texts"]),
            f"{one['confidence']:.3f}",
            f"{one['accuracy']:.3f}",
        )
    console.print(bins)
    covered = Table("most certain", "from probability", "right", title="leaving out the least certain",
                    title_justify="left")  # fmt: skip
    for one in found["at_coverage"]:
        covered.add_row(f"{one['coverage']:.0%}", f"{one['threshold']:.3f}", f"{one['accuracy']:.3f}")
    console.print(covered)


def _interval(one: dict[str, float]) -> str:
    return f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"


def _difference(one: dict[str, float]) -> str:
    clear = one["low"] > 0 or one["high"] < 0
    told = f"{one['value']:+.3f} ({one['low']:+.3f} to {one['high']:+.3f})"
    return told if clear else f"{told}, may be chance"
