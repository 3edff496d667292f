"""``moodq eval`` with the deterministic engine: a text is negative when it holds a bad word."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from moodq_config.errors import ConfigError
from moodq_worker.quality.cli import evaluate_command

LINES = [
    "negative\tvery bad",
    "positive\tfine",
    "positive\tbad, says the label",
    "negative\t很差",
    "positive\t好",
]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOODQ_ENGINE", "fake")
    path = tmp_path / "mine.tsv"
    path.write_text("\n".join(LINES), "utf-8")
    return path


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(evaluate_command, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_tells_every_figure_by_language(data: Path) -> None:
    document = json.loads(run(data, "--json"))
    [way] = document["ways"]
    assert way["parts"]["zh"]["accuracy"]["value"] == 1.0
    assert way["parts"]["en"]["accuracy"]["value"] == pytest.approx(2 / 3, abs=1e-4)
    assert way["parts"]["en"]["confusion"] == [[1, 1], [0, 1]]
    assert way["parts"]["all"]["texts"] == 5
    assert {"ece", "f1", "reliability", "at_coverage", "balanced_accuracy", "log_loss"} <= set(
        way["parts"]["all"]
    )
    assert document["data"] == ["mine.tsv"]


def test_two_ways_are_compared_in_pairs(data: Path) -> None:
    document = json.loads(run(data, "--precision", "bf16", "--precision", "fp32", "--json"))
    assert [way["way"] for way in document["ways"]] == ["bf16", "fp32"]
    assert document["ways"][1]["parts"]["all"]["difference"]["accuracy"] == {
        "value": 0.0,
        "low": 0.0,
        "high": 0.0,
    }


def test_the_tables_name_both_languages(data: Path) -> None:
    shown = run(data)
    assert "Chinese" in shown
    assert "0.667" in shown


def test_the_report_is_one_page_that_asks_for_nothing_else(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    report = tmp_path / "report.html"
    run(data, "--report", report)
    page = report.read_text("utf-8")
    assert page.count("<svg") == 6
    assert "src=" not in page
    assert "0.667" in page
    # What a probability means, and what abstaining brings, as tables: for each language and for all texts.
    assert page.count("<th>share right</th>") == 6
    assert "0.9 to 1.0" in page


def test_a_task_that_is_no_label_task_is_refused_naming_those_that_are(data: Path) -> None:
    result = CliRunner().invoke(evaluate_command, [str(data), "--task", "reply"])
    assert result.exit_code == 2
    assert "sentiment" in result.output


def test_a_bad_line_is_named(data: Path) -> None:
    data.write_text("positive\tfine\nfurious\tno such label\n", "utf-8")
    with pytest.raises(ConfigError, match=r"mine\.tsv:2"):
        run(data)
