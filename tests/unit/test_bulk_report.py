"""The page of a tagged file: what is in it, and that it stays small."""

from __future__ import annotations

import pytest

from moodq_config.contracts import Result
from moodq_producer.bulk.report import STEPS, Report, _hour

pytest.importorskip("matplotlib")


def result(label: str, probability: float) -> Result:
    other = "positive" if label == "negative" else "negative"
    scores = {label: probability, other: 1 - probability}
    return Result.model_validate(
        {
            "id": "x", "status": "done", "worker": "w", "attempt": 1,
            "finished_at": "2026-01-01T00:00:00+00:00",
            "results": {"sentiment": {"label": label, "probability": probability, "scores": scores}},
        }
    )  # fmt: skip


def test_the_page_shows_shares_plots_and_examples_and_no_text_is_markup() -> None:
    report = Report("sentiment")
    for line in range(1, 91):
        report.add(line, f"2026-01-01 {line // 40:02}:10:00 fine", result("positive", 0.9))
    report.add(91, "2026-01-01 03:00:00 <script>alert(1)</script>", result("negative", 0.99))
    report.add(92, "hm", result("negative", 0.51))
    page = report.page("a & b")
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "a &amp; b" in page
    assert page.count("<svg") == 4
    assert "src=" not in page
    assert (
        page.index("0.990") < page.index("Least certain") < page.index("0.510", page.index("Least certain"))
    )
    assert "97.8%" in page


def test_memory_does_not_grow_with_the_rows() -> None:
    report = Report("sentiment")
    for line in range(20_000):
        report.add(line, "x" * 1_000, result("positive", 0.9))
    assert len(report._steps) <= STEPS
    assert sum(step.rows for step in report._steps) == 20_000
    assert len(report.page("long")) < 300_000


@pytest.mark.parametrize(
    ("line", "hour"),
    [
        ("2026-03-01 17:20:01,123 ERROR x", "2026-03-01 17h"),
        ("[Sun Dec 04 04:47:44 2005] [error] mod_jk", "2005-12-04 04h"),
        ("Dec 10 06:55:46 LabSZ sshd[24200]: x", "12-10 06h"),
        ("2026-03-01T17:20:01Z x", "2026-03-01 17h"),
        ("081109 203615 148 INFO dfs", None),
        ("2026-99-01 17:20:01 x", None),
    ],
)
def test_the_hour_of_a_log_line_is_read(line: str, hour: str | None) -> None:
    assert _hour(line) == hour
