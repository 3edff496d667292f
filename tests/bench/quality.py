"""``python -m tests.bench.quality``, from the repository's root: how right ``sentiment`` is, beside others.

moodq, the same question by ``generate``, and the usual small packages of each language, on real texts of
seven kinds (``quality_sets``). Writes ``build/quality/latest.json`` and ``docs/quality.md``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import click
import numpy as np

from moodq_config.contracts import ModelRef
from moodq_config.settings import load_settings
from moodq_worker.model_store import resolve
from moodq_worker.quality.measures import DRAWS, LEVEL, ece, interval
from moodq_worker.quality.predict import Predictions

from .quality_page import write_quality_page
from .quality_sets import ARCHIVES, EACH, SEED, TextSet, text_sets
from .quality_ways import Article, Moodq, Numbers, Told, peers, versions
from .report import write_json
from .texts import LABELS, Labelled

LATEST = ARCHIVES / "latest.json"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--each", default=EACH, show_default=True, type=click.IntRange(5),
              help="Texts of each label from a package's set.")  # fmt: skip
@click.option("--generate", default=100, show_default=True, type=click.IntRange(10),
              help="Texts of each set that the article's way is tried on: it is slow.")  # fmt: skip
@click.option("--only", multiple=True,
              help="This set, may be repeated; the others keep the last run's figures.")  # fmt: skip
def main(each: int, generate: int, only: tuple[str, ...]) -> None:
    """Compare moodq with its peers, and write docs/quality.md."""
    settings = load_settings()
    sets, left_out = text_sets(each)
    others, missing = peers()
    if not sets:
        raise click.ClickException(f"no texts to judge by: {'; '.join(left_out)}")
    if unknown := set(only) - {one.name for one in sets}:
        raise click.BadParameter(f"no such set: {', '.join(sorted(unknown))}", param_hint="--only")
    moodq = Moodq(settings)
    precision = moodq.ref.precision if moodq.ref.precision in ("bf16", "fp32") else "bf16"
    rows = _kept(only, moodq.ref) if only else []
    with closing(Article(str(resolve(settings, click.echo).path), precision)) as article:
        for one in sets:
            if only and one.name not in only:
                continue
            click.echo(f"{one.name}: {len(one.texts)} texts", err=True)
            some = sample(one.texts, generate)
            rows += [_row(one, told, one.texts) for told in moodq.run(one.texts)]
            rows += [_row(one, told, some) for told in article.run(some)]
            for peer in others:
                if peer.lang == one.lang and peer.name != one.known_to:
                    rows += [_row(one, told, one.texts) for told in peer.run(one.texts)]
    order = {one.name: place for place, one in enumerate(sets)}
    rows = sorted((row for row in rows if row["set"] in order), key=lambda row: order[row["set"]])
    document = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": moodq.ref.model_dump(),
        "peers": versions(),
        "left_out": left_out + missing,
        "sets": [
            {
                "name": one.name,
                "lang": one.lang,
                "texts": len(one.texts),
                "characters": round(float(np.mean([len(text.text) for text in one.texts])), 1),
                "source": one.source,
                "known_to": one.known_to,
            }
            for one in sets
            if any(row["set"] == one.name for row in rows)
        ],
        "rows": rows,
    }
    write_json(document, LATEST)
    click.echo(f"written: {LATEST}, {write_quality_page(document)}")


def _kept(only: Sequence[str], model: ModelRef) -> list[dict[str, Any]]:
    """The last run's rows of the other sets, if it was of the same model."""
    if not LATEST.is_file():
        return []
    document = json.loads(LATEST.read_text("utf-8"))
    if document["model"] != model.model_dump():
        raise click.ClickException(f"{LATEST} is of another model; run without --only")
    return [row for row in document["rows"] if row["set"] not in only]


def sample(texts: Sequence[Labelled], count: int) -> list[Labelled]:
    """``count`` of them, as many of each label, the same every time."""
    draw = random.Random(SEED)
    by_label = [[one for one in texts if one.label == label] for label in LABELS]
    return [one for some in by_label for one in draw.sample(some, min(count // 2, len(some)))]


def _row(one: TextSet, told: Told, texts: Sequence[Labelled]) -> dict[str, Any]:
    truth = np.array([text.label == LABELS[0] for text in texts])
    return {"set": one.name, "lang": one.lang, "way": told.way, **figures(told, truth)}


def figures(told: Told, truth: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
    """``truth`` is True for what is positive. What a way says nothing of is half right: a coin would do as
    well."""
    right = np.where(told.positive == 0.5, 0.5, (told.positive > 0.5) == truth)
    index = np.random.default_rng(SEED).integers(0, len(truth), (DRAWS, len(truth)))
    drawn = right[index].mean(axis=1)
    balanced = np.array([_balanced(right[one], truth[one]) for one in index])
    found: dict[str, Any] = {
        "texts": len(truth),
        "accuracy": _told(float(right.mean()), drawn),
        "balanced_accuracy": _told(_balanced(right, truth), balanced),
        "said_nothing": round(float((told.positive == 0.5).mean()), 4),
        "positive": round(float((told.positive > 0.5).mean()), 4),
        "texts_per_s": round(len(truth) / told.seconds, 1),
        "ece": None,
    }
    if told.calibrated:
        both = np.stack([told.positive, 1 - told.positive], axis=1)
        found["ece"] = interval(Predictions(LABELS, np.where(truth, 0, 1), both, 0.0, 0), ece).rounded()
    return found


def _balanced(right: Numbers, truth: np.ndarray[Any, np.dtype[np.bool_]]) -> float:
    return float(np.mean([right[truth == side].mean() for side in (True, False) if (truth == side).any()]))


def _told(value: float, drawn: Numbers) -> dict[str, float]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return {"value": round(value, 4), "low": round(float(low), 4), "high": round(float(high), 4)}


if __name__ == "__main__":
    main()
