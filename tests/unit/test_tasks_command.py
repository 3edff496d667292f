"""``moodq tasks``: what is in force, every fault of a file at once, one text by a deterministic engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from moodq_config.cli_tasks import tasks
from moodq_config.contracts import Result as ItemResult
from moodq_config.errors import BadInput, ConfigError, ErrorCode
from moodq_config.task_check import CHECKS_GROUP
from moodq_config.task_loading import parse_tasks
from moodq_config.task_toml import task_toml
from moodq_config.tasks import load_tasks, shipped_tasks

SPAM = """
[tasks.spam]
kind = "label"
labels = ["spam", "ham"]
prompt.zh = { system = "判断", words = { spam = "是", ham = "否" } }
prompt.en = { system = "Judge", words = { spam = "yes", ham = "no" } }
"""
#: Eleven faults, each with its line and the field it is in.
BROKEN = """
[tasks.spam]
kind = "label"
labels = ["spam", "ham"]
prompt.zh = { system = "判断", words = { spam = "是", ham = "是" }, bias = { eggs = 1.0 } }
prompt.en = { system = "Judge", user = "x", words = { spam = "yes", ham = "no" } }

[tasks.junk]
kind = "lable"

[tasks.note]
kind = "generate"
sytem = "x"
max_new_tokens = 0
prompt.zh = { system = "判断" }
prompt.en = { sytem = "a" }

[tasks.after_junk]
kind = "generate"
after = "junk"
prompt.zh = { system = "判断" }
prompt.en = { system = "a" }

[tasks.after_nothing]
kind = "generate"
after = "nothing"
prompt.zh = { system = "判断" }
prompt.en = { system = "a" }

[tasks.order]
kind = "extract"
schema = { type = "objct" }
prompt.zh = { system = "判断" }
prompt.en = { system = "a" }

[tasks.number]
kind = "extract"
schema = { type = "integer" }
prompt.zh = { system = "判断", examples = [{ text = "一", data = "1" }] }
prompt.en = { system = "a" }
"""
FAULTS = [
    (5, "tasks.spam.prompt.zh.words"),
    (5, "tasks.spam.prompt.zh"),
    (6, "tasks.spam.prompt.en.user"),
    (9, "tasks.junk.kind"),
    (13, "tasks.note.sytem"),
    (14, "tasks.note.max_new_tokens"),
    (16, "tasks.note.prompt.en.system"),
    (16, "tasks.note.prompt.en.sytem"),
    (26, "tasks.after_nothing.after"),
    (32, "tasks.order.schema"),
    (39, "tasks.number.prompt.zh.examples.0.data"),
]


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOODQ_ENGINE", "fake")
    monkeypatch.delenv("MOODQ_TASKS_FILE", raising=False)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(SPAM, "utf-8")
    return path


def run(*words: object) -> Result:
    return CliRunner().invoke(tasks, [str(word) for word in words])


def shown(*words: object) -> str:
    done = run(*words)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("name", shipped_tasks())
def test_what_show_prints_of_a_shipped_task_is_read_back_as_the_same_task(name: str) -> None:
    text = shown("show", name)
    assert text.startswith(f"# {name}: shipped, revision {load_tasks().revision_of(name)}\n")
    assert parse_tasks(text, "shown") == {name: shipped_tasks()[name]}


def test_values_that_json_does_not_know_are_written_as_toml_does() -> None:
    odd = SPAM.replace('"判断"', '"a\\u007f\\"b\\nc"').replace(
        'words = { spam = "yes"', 'words = { spam = "\\t"'
    )
    task = parse_tasks(odd, "odd")["spam"]
    assert parse_tasks(task_toml(task), "again")["spam"] == task
    dated = """
[tasks.when]
kind = "extract"
schema = { enum = [1.5, true, []], x = {} }
prompt.zh = { system = "a", examples = [{ text = "b", data = { at = 2026-01-02T03:04:05Z, "几 时" = inf } }] }
prompt.en.system = "a"
"""
    task = parse_tasks(dated, "dated")["when"]
    assert parse_tasks(task_toml(task), "again")["when"] == task


def test_a_task_of_ones_own_is_shown_and_listed_with_its_file_and_revision(
    mine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = load_tasks(mine).revision_of("spam")
    assert f"# spam: {mine}, revision {revision}" in shown("show", "spam", "--file", mine)
    rows = {row["name"]: row for row in json.loads(shown("list", "--file", mine, "--json"))}
    assert set(rows) == {*shipped_tasks(), "spam"}
    assert rows["spam"]["from"] == str(mine)
    assert rows["spam"]["revision"] == revision
    assert rows["sentiment"]["from"] == "shipped"
    monkeypatch.setenv("COLUMNS", "300")
    table = [line.split() for line in shown("list", "--file", mine).splitlines()]
    assert ["spam", "label", "spam,", "ham", str(mine), revision] in table


def test_a_task_that_replaces_a_shipped_one_says_so(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine.write_text(shown("show", "urgency").replace("high", "now"), "utf-8")
    monkeypatch.setenv("MOODQ_TASKS_FILE", str(mine))
    assert "It replaces the shipped task of this name." in shown("show", "urgency")
    [row] = [row for row in json.loads(shown("list", "--json")) if row["name"] == "urgency"]
    assert (row["from"], row["replaces_shipped"]) == (str(mine), True)
    assert "in the place of shipped ones: urgency" in shown("check")


def test_a_task_that_is_not_there_is_named_with_those_that_are() -> None:
    done = run("show", "mood")
    assert isinstance(done.exception, BadInput)
    assert done.exception.code == ErrorCode.UNKNOWN_TASK
    assert "sentiment" in done.exception.message


def test_check_tells_every_fault_with_file_line_and_field(mine: Path) -> None:
    mine.write_text(BROKEN, "utf-8")
    done = run("check", mine)
    assert isinstance(done.exception, ConfigError)
    assert done.exception.exit_code == 2
    assert done.exception.code == ErrorCode.TASKS_INVALID
    assert done.exception.message.startswith(f"{len(FAULTS)} faults in {mine}")
    lines = done.stdout.splitlines()
    for told, (line, field) in zip(lines, FAULTS, strict=True):
        assert told.startswith(f"{mine}, line {line}: {field}"), told
        assert len(told) > len(f"{mine}, line {line}: {field}") + 10, "what to do is missing"
    as_json = json.loads(run("check", mine, "--json").stdout)
    assert [(fault["line"], fault["field"]) for fault in as_json["faults"]] == FAULTS


def test_check_names_the_line_of_what_is_no_toml_and_tells_of_a_file_of_other_things(mine: Path) -> None:
    mine.write_text(SPAM + "[tasks.more\n", "utf-8")
    assert f"{mine}, line 7: " in run("check", mine).stdout
    mine.write_text("[task.spam]\n", "utf-8")
    assert "only [tasks.<name>] tables" in run("check", mine).stdout


def test_check_passes_what_a_worker_takes(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"in order: spam; revision {load_tasks(mine).revision}" in shown("check", mine)
    assert json.loads(shown("check", mine, "--json")) == {
        "file": str(mine), "tasks": ["spam"], "faults": [], "not_checked": [],
    }  # fmt: skip
    assert "shipped tasks are in order" in shown("check")
    monkeypatch.setenv("MOODQ_WARM_TASKS", "sentiment,ham")
    assert "MOODQ_WARM_TASKS: 'ham' is not a task" in run("check", mine).stdout


def test_check_says_what_it_could_not_look_at(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        name = "schemas"

        def load(self) -> Any:
            raise ModuleNotFoundError("no jsonschema", name="jsonschema")

    def found(group: str) -> list[Missing]:
        assert group == CHECKS_GROUP
        return [Missing()]

    monkeypatch.setattr("moodq_config.task_check.entry_points", found)
    done = run("check", mine)
    assert done.exit_code == 0
    assert "not checked: schemas; install it with: pip install 'moodq[worker]'" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["sentiment", "差评"], "sentiment: negative 0.900\n  negative  0.900\n  positive  0.100\n"),
        (["sentiment", "fine"], "sentiment: positive 0.900\n  positive  0.900\n  negative  0.100\n"),
        (["reply", "你好"], "echo: 你好\n2 tokens, ended\n"),
        (["topic", "moon", "--labels", "sun, moon"], "topic: moon 0.900\n  moon  0.900\n  sun   0.100\n"),
        (["rerank", "a b", "--document", "x", "--document", "b"], "rerank: 1, 0\n  1  0.500\n  0  0.000\n"),
        (["needs_attention", "fine"], "needs_attention: 0.100\n  no   0.900\n  yes  0.100\n"),
        (["keywords", "fine"], '{\n "keywords": []\n}\n'),
    ],
)
def test_try_prints_all_that_comes_out_of_each_kind(words: list[str], says: str) -> None:
    text = shown("try", *words)
    if words[0] == "keywords":
        assert '"keywords": [' in text
    else:
        assert text.startswith(says)
    name = words[0]
    assert f"fake 1 none; task revision {load_tasks().revision_of(name)}\n" in text
    assert "prefill " in text


def test_try_prints_the_result_of_the_contract_as_json(mine: Path) -> None:
    result = ItemResult.model_validate_json(shown("try", "spam", "fine", "--file", mine, "--json"))
    assert result.revisions == {"spam": load_tasks(mine).revision_of("spam")}
    assert result.model is not None
    assert result.timings_ms is not None
    assert result.timings_ms.total >= result.timings_ms.prefill


def test_a_text_that_the_task_fails_on_is_told_with_its_code(monkeypatch: pytest.MonkeyPatch) -> None:
    done = run("try", "keywords", "[[words 3]]")
    assert done.exit_code == 3
    assert (
        "engine_failed: task keywords: the model wrote JSON that the task's schema does not allow"
        in done.stderr
    )
    monkeypatch.setenv("MOODQ_MAX_TEXT_TOKENS", "8")
    done = run("try", "sentiment", "far too long a text")
    assert done.exit_code == 3
    assert "text_too_long: text has 19 tokens, the limit is 8" in done.stderr
    monkeypatch.setenv("MOODQ_LONG_TEXT", "truncate")
    assert "only the text's beginning was read" in shown("try", "sentiment", "far too long a text")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mood", "x"], "'mood' is not a task"),
        (["sentiment", "  "], "text is empty"),
        (["topic", "x"], "field 'labels' is missing"),
        (["sentiment", "x", "--labels", "a,b"], "field 'labels' goes with other tasks"),
    ],
)
def test_what_does_not_fit_a_task_is_refused_before_a_model_is_loaded(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moodq_config.cli_tasks_try._runner", lambda name: pytest.fail("it was run"))
    done = run("try", *words)
    assert isinstance(done.exception, BadInput)
    assert says in done.exception.message


def test_a_file_of_ones_own_is_not_for_running_workers(mine: Path) -> None:
    done = run("try", "spam", "x", "--queue", "--file", mine)
    assert done.exit_code == 2
    assert "workers read their own MOODQ_TASKS_FILE" in done.output
