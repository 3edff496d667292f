"""``moodq tune`` with an engine that reads off each text its true log-odds, and spoils them."""

from __future__ import annotations

import json
import math
import random
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from moodq_config.answers import Judgement, LabelScores
from moodq_config.errors import ConfigError
from moodq_config.task_toml import task_toml
from moodq_config.tasks import LabelTask, Lang, TaskSet, load_tasks
from moodq_worker import wiring
from moodq_worker.engine_fake import FakeEngine
from moodq_worker.quality.cli_tune import tune_command

#: What the engine says is so many times the truth, less so much: too sure, and leaning to the negative.
TOO_SURE, LEANS = 3.0, 1.5
#: The system prompt by which the engine is blind.
BLIND = "Do not look."
OTHER = f"""
[tasks.sentiment]
kind = "label"
labels = ["positive", "negative"]
prompt.zh = {{ system = "{BLIND}", words = {{ positive = "好", negative = "坏" }} }}
prompt.en = {{ system = "SHARP", words = {{ positive = "good", negative = "bad" }} }}
"""


class TellingEngine(FakeEngine):
    """``+1.25 …`` is a text whose true log-odds of being positive are 1.25."""

    def label(
        self,
        tasks: Sequence[str],
        lang: Lang,
        texts: Sequence[Sequence[int]],
        choices: Sequence[str] = (),
        *,
        of: TaskSet | None = None,
    ) -> list[list[Judgement]]:
        task = self._known(of).label_task(tasks[0])
        assert task.prompt[lang].bias == {}
        assert task.prompt[lang].temperature == 1.0
        return [[self._said(task, lang, "".join(map(chr, text)))] for text in texts]

    @staticmethod
    def _said(task: LabelTask, lang: Lang, text: str) -> LabelScores:
        true = float(text.split()[0])
        said = {BLIND: 0.0, "SHARP": 4 * true}.get(task.prompt[lang].system, TOO_SURE * true - LEANS)
        positive = 1 / (1 + math.exp(-said))
        return LabelScores.of({"positive": positive, "negative": 1 - positive})


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(wiring, "build_engine", lambda settings: TellingEngine())
    monkeypatch.delenv("MOODQ_TASKS_FILE", raising=False)
    draw = random.Random(5)
    lines = []
    for number in range(800):
        true = draw.gauss(0, 1.5)
        label = "positive" if draw.random() < 1 / (1 + math.exp(-true)) else "negative"
        lines.append(f"{label}\t{true:+.3f} {'评论' if number % 2 else 'review'}")
    path = tmp_path / "mine.tsv"
    path.write_text("\n".join(lines), "utf-8")
    return path


def run(*words: str | Path) -> str:
    result = CliRunner().invoke(tune_command, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_what_is_written_is_the_task_calibrated_and_its_figures_are_better(
    data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "tuned.toml"
    document = json.loads(run(data, "-o", output, "--json"))
    tuned, before = load_tasks(output).label_task("sentiment"), load_tasks().label_task("sentiment")
    for lang in ("zh", "en"):
        prompt = tuned.prompt[lang]
        assert prompt.temperature == pytest.approx(TOO_SURE, rel=0.3)
        assert prompt.bias["positive"] == pytest.approx(LEANS, abs=0.6)
        assert prompt.system == before.prompt[lang].system
        assert prompt.examples == before.prompt[lang].examples
    assert [(one["lang"], one["chosen"]) for one in document["tried"]] == [("zh", True), ("en", True)]
    for one in document["tried"]:
        assert one["fitted"]["ece"]["value"] < one["as_is"]["ece"]["value"] - 0.05
        assert one["fitted"]["accuracy"]["value"] > one["as_is"]["accuracy"]["value"]
        assert one["difference"]["log_loss"]["high"] < 0
    head = output.read_text("utf-8")
    assert head.startswith("# Written by moodq tune from mine.tsv,")
    assert f"ECE {document['tried'][0]['fitted']['ece']['value']:.3f}" in head


def test_a_better_prompt_takes_the_place_of_the_one_in_force_in_its_language_only(
    data: Path, tmp_path: Path
) -> None:
    other, output = tmp_path / "other.toml", tmp_path / "tuned.toml"
    # In English it is the truth, four times too sure: no better once calibrated. In Chinese it sees nothing.
    other.write_text(OTHER, "utf-8")
    run(data, "--tasks-file", other, "-o", output)
    before = load_tasks().label_task("sentiment")
    tuned = load_tasks(output).label_task("sentiment")
    assert tuned.prompt["zh"].system == before.prompt["zh"].system
    assert tuned.prompt["en"].system == before.prompt["en"].system
    # The other way about: the blind prompt in force, the shipped one tried.
    output.unlink()
    blind = tmp_path / "blind.toml"
    blind.write_text(OTHER.replace("SHARP", BLIND), "utf-8")
    shipped = tmp_path / "shipped.toml"
    shipped.write_text(task_toml(before), "utf-8")
    result = CliRunner(env={"MOODQ_TASKS_FILE": str(blind)}).invoke(
        tune_command, [str(data), "--tasks-file", str(shipped), "-o", str(output)], catch_exceptions=False
    )
    assert result.exit_code == 0
    tuned = load_tasks(output).label_task("sentiment")
    assert {lang: prompt.system for lang, prompt in tuned.prompt.items()} == {
        lang: prompt.system for lang, prompt in before.prompt.items()
    }


def test_layouts_that_cannot_be_mixed_are_chosen_for_all_languages(data: Path, tmp_path: Path) -> None:
    output, asking = tmp_path / "tuned.toml", tmp_path / "asking.toml"
    asking.write_text(
        OTHER.replace('kind = "label"', 'kind = "label"\nlayout = "text_first"').replace(
            "words =", 'ask = "?", words ='
        ),
        "utf-8",
    )
    run(data, "--tasks-file", asking, "-o", output)
    assert load_tasks(output).label_task("sentiment").layout == "instruction_first"
    output.unlink()
    result = CliRunner(env={"MOODQ_TASKS_FILE": str(asking)}).invoke(
        tune_command, [str(data), "-o", str(output)], catch_exceptions=False
    )
    assert result.exit_code == 0
    tuned = load_tasks(output).label_task("sentiment")
    assert (tuned.layout, tuned.prompt["en"].ask) == ("text_first", "?")


def test_a_language_with_too_few_texts_stays_as_it_is(data: Path, tmp_path: Path) -> None:
    lines = [line for line in data.read_text("utf-8").splitlines() if "评论" not in line]
    data.write_text("\n".join([*lines, "positive\t+1.0 评论"]), "utf-8")
    output = tmp_path / "tuned.toml"
    run(data, "-o", output)
    tuned = load_tasks(output).label_task("sentiment")
    assert tuned.prompt["zh"] == load_tasks().label_task("sentiment").prompt["zh"]
    assert tuned.prompt["en"].temperature > 2
    data.write_text("positive\t+1.0 review\n", "utf-8")
    with pytest.raises(ConfigError, match=r"too few texts.*0 texts of negative, 5 are needed"):
        run(data, "-o", tmp_path / "none.toml")


def test_a_file_that_is_there_is_not_written_over(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "mine.toml"
    output.write_text("[tasks]\n", "utf-8")
    result = CliRunner().invoke(tune_command, [str(data), "-o", str(output)])
    assert result.exit_code == 2
    assert "is there already" in result.output
    assert output.read_text("utf-8") == "[tasks]\n"


def test_the_table_tells_both_languages_and_what_was_chosen(data: Path, tmp_path: Path) -> None:
    shown = run(data, "-o", tmp_path / "tuned.toml")
    assert "Chinese, 400 texts" in shown
    assert "English, 400 texts" in shown
    assert shown.count("yes") == 2


def test_every_label_task_is_the_same_when_it_is_written_and_read_back(tmp_path: Path) -> None:
    strange = 'say "so"\\\n\t行\x7f\x01'
    for number, task in enumerate(load_tasks().labels()):
        prompt = task.prompt["en"].model_copy(
            update={"system": strange, "bias": {task.labels[0]: -0.00001}, "temperature": 1.5}
        )
        changed = task.model_copy(update={"prompt": {**task.prompt, "en": prompt}, "threshold": 0.6})
        for one in (task, changed):
            path = tmp_path / f"{number}.toml"
            path.write_text(task_toml(one, ["why", ""]), "utf-8")
            assert load_tasks(path)[task.name] == one
            assert set(tomllib.loads(path.read_text("utf-8"))["tasks"]) == {task.name}
