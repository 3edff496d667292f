"""``moodq bench``: what it reads, what it refuses, and that every text is labelled once and in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from moodq_config.errors import ConfigError
from moodq_config.settings import load_settings
from moodq_config.tasks import load_tasks
from moodq_worker.quality.compare import compare
from moodq_worker.quality.examples import read_examples

TASKS = load_tasks()
SENTIMENT = TASKS.label_task("sentiment")


def test_without_a_file_the_demos_labelled_messages_are_read() -> None:
    examples = read_examples(None, SENTIMENT)
    assert {example.lang for example in examples} == {"zh", "en"}
    assert {example.label for example in examples} == set(SENTIMENT.labels)


@pytest.mark.parametrize(
    "line", ["no tab here", "happy\ta label that the task does not know", "positive\t  "]
)
def test_a_line_that_is_no_label_and_text_is_refused_naming_it(tmp_path: Path, line: str) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text(f"positive\tfine\n\n{line}\n", "utf-8")
    with pytest.raises(ConfigError, match=r"mine\.tsv:3: .*positive, negative"):
        read_examples(path, SENTIMENT)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.tsv"
    path.write_text("\n", "utf-8")
    with pytest.raises(ConfigError, match="no lines"):
        read_examples(path, SENTIMENT)


def test_accuracy_is_per_language_and_over_all_texts(tmp_path: Path) -> None:
    """The fake engine calls a text negative when it holds a bad word."""
    path = tmp_path / "mine.tsv"
    lines = [
        "negative\tvery bad",
        "positive\tfine",
        "positive\tbad, says the label",
        "negative\t很差",
        "positive\t好",
    ]
    path.write_text("\n".join(lines), "utf-8")
    settings = load_settings(engine="fake")
    [one] = compare(settings, TASKS, SENTIMENT, ["bf16"], read_examples(path, SENTIMENT))
    assert one.accuracy == {"zh": 1.0, "en": pytest.approx(2 / 3)}
    assert one.changed == 0.0
    assert one.items_per_s > 0
