"""What ``make quality`` counts and writes: half right for silence, and a page made of its figures alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.quality import figures, sample
from bench.quality_page import write_quality_page
from bench.quality_sets import _balanced, _rated
from bench.quality_ways import Told, _undone
from bench.texts import Labelled
from moodq_worker.quality.calibration import Calibration

TRUTH = np.array([True, True, True, False])


def test_what_a_way_says_nothing_of_is_half_right() -> None:
    found = figures(Told("a lexicon", np.array([1.0, 0.5, 0.0, 0.0]), 2.0, calibrated=False), TRUTH)
    assert found["accuracy"]["value"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert found["balanced_accuracy"]["value"] == pytest.approx((0.5 + 1) / 2)
    assert (found["said_nothing"], found["positive"], found["texts_per_s"]) == (0.25, 0.25, 2.0)
    assert found["ece"] is None


def test_only_probabilities_have_a_calibration_error() -> None:
    found = figures(Told("a model", np.array([0.9, 0.8, 0.3, 0.4]), 1.0), TRUTH)
    # Right: 0.9, 0.8, and 0.6 of the negative; wrong: 0.7. Each in a bin of its own.
    assert found["ece"]["value"] == pytest.approx((0.1 + 0.2 + 0.4 + 0.7) / 4)
    assert found["accuracy"]["low"] <= 0.75 <= found["accuracy"]["high"]


def test_undoing_a_calibration_gives_what_the_model_said() -> None:
    said = np.log(np.array([[0.7, 0.3], [0.01, 0.99]]))
    calibration = Calibration((0.4, 0.0), 0.6)
    assert _undone(calibration(said), calibration) == pytest.approx([0.7, 0.01])


def test_a_sample_holds_as_many_of_each_label_and_is_the_same_every_time() -> None:
    texts = [Labelled(str(number), "positive" if number % 4 else "negative", "en") for number in range(80)]
    some = sample(texts, 20)
    assert (
        [one.label for one in some].count("positive") == [one.label for one in some].count("negative") == 10
    )
    assert some == sample(texts, 20)
    assert len(_balanced(texts, 100)) == 40


def test_snippets_of_no_clear_sentiment_are_left_out() -> None:
    lines = [
        "1\t2.5\ta fine and sturdy thing",
        "2\t-3\tit broke on the first day",
        "3\t0.4\tit is a thing, so so",
    ]
    assert [(one.label, one.text) for one in _rated([*lines, "no tabs", "4\t3\tshort"])] == [
        ("positive", "a fine and sturdy thing"),
        ("negative", "it broke on the first day"),
    ]


def test_the_page_tells_every_row_and_what_was_left_out(tmp_path: Path) -> None:
    def row(way: str, calibrated: bool) -> dict[str, Any]:
        told = Told(way, np.array([0.9, 0.8, 0.3, 0.4]), 1.0, calibrated)
        return {"set": "hotels", "lang": "zh", "way": way, **figures(told, TRUTH)}

    document = {
        "at": "2026-01-02T03:04:05+00:00",
        "model": {"id": "m", "revision": "1", "precision": "bf16"},
        "peers": {"snownlp": "0.12"},
        "left_out": ["VADER's snippets: vaderSentiment is not installed"],
        "sets": [{"name": "hotels", "lang": "zh", "texts": 4, "characters": 96.2, "source": "SnowNLP"}],
        "rows": [row("moodq", True), row("cnsenti", False)],
    }
    page = write_quality_page(document, tmp_path / "quality.md").read_text("utf-8")
    assert "Left out: VADER's snippets: vaderSentiment is not installed." in page
    assert "| hotels | Chinese | 4 | 96 | SnowNLP |" in page
    [moodq] = [line for line in page.splitlines() if line.startswith("| hotels | moodq |")]
    [cnsenti] = [line for line in page.splitlines() if line.startswith("| hotels | cnsenti |")]
    assert moodq.count("0.350 (") == 1
    assert moodq.count("|") == cnsenti.count("|") == page.count("|---|---|---|---|---|---|---|---|---|") * 10
