"""The page of a tagged file: what is in it, and that it stays small."""

from __future__ import annotations

import re

import pytest

from moodq_config.contracts import LabelScores
from moodq_producer.bulk.report import MAX_TIMES, STEPS, Report
from moodq_producer.bulk.times import hour_of_line, hour_of_value

pytest.importorskip("matplotlib")


def result(label: str, probability: float) -> dict[str, LabelScores]:
    other = "positive" if label == "negative" else "negative"
    scores = {label: probability, other: 1 - probability}
    return {"sentiment": LabelScores(label=label, probability=probability, scores=scores)}


def test_the_page_shows_shares_plots_and_examples_and_no_text_is_markup() -> None:
    report = Report("sentiment")
    for line in range(1, 91):
        report.add(str(line), f"2026-01-01 {line // 40:02}:10:00 fine", result("positive", 0.9))
    report.add("91", "2026-01-01 03:00:00 <script>alert(1)</script>", result("negative", 0.99))
    report.add("<b>92</b>", "hm", result("negative", 0.51))
    page = report.page("a & b")
    assert "<script>" not in page
    assert "<b>92" not in page
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
        report.add(str(line), "x" * 1_000, result("positive", 0.9))
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
        ("081109 203615 148 INFO dfs", "2008-11-09 20h"),
        ("<34>Oct 11 22:14:15 host su: x", "10-11 22h"),
        ('1.2.3.4 - - [10/Oct/2000:13:55:36 -0700] "GET /"', "2000-10-10 13h"),
        ("12 eggs", None),
        ("2026-99-01 17:20:01 x", None),
    ],
)
def test_the_hour_of_a_log_line_is_read(line: str, hour: str | None) -> None:
    assert hour_of_line(line) == hour


@pytest.mark.parametrize(
    ("value", "hour"),
    [
        (1_700_000_000, "2023-11-14 22h"),
        (1_700_000_000_000.0, "2023-11-14 22h"),
        ("2026-01-02T03:04:05.678+08:00", "2026-01-02 03h"),
        ("2026/1/2 3pm", "2026-01-02 15h"),
        ("yesterday, maybe", None),
        (float("nan"), None),
        (None, None),
    ],
)
def test_the_hour_of_a_column_is_read(value: object, hour: str | None) -> None:
    assert hour_of_value(value) == hour


def test_a_log_of_many_years_is_drawn_by_days_or_months() -> None:
    report = Report("sentiment", time_column="at")
    for number in range(3 * MAX_TIMES):
        report.add("1", "x", result("positive", 0.9), kept={"at": 1_000_000_000 + number * 7_200})
    assert 1 < len(report._hours) <= MAX_TIMES
    assert sum(report._times.values()) == 3 * MAX_TIMES
    assert re.search(r"rows in (each day|\d+ days)", report.page("long"))


def test_rows_of_the_run_before_count_but_not_as_speed() -> None:
    report = Report("sentiment")
    for number in range(50):
        report.add("1", "x", result("positive", 0.9), fresh=number >= 40)
    assert sum(step.fresh for step in report._steps) == 10
    assert "50 rows" in report.page("resumed")
