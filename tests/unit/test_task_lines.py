"""The line of a field in a TOML file, however it is written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from moodq_config.errors import ConfigError
from moodq_config.task_file import TaskFile
from moodq_config.task_lines import line_of
from moodq_config.tasks import load_tasks

TEXT = '''# my tasks

[tasks.spam]
kind = "label"

# what it may say
labels = [
  "spam",
  "ham",  # not ] spam
]
prompt.zh = { system = "判断", words = { spam = "是", ham = "否" } }

[tasks.spam.prompt.en]
system = """
[tasks.other]
kind = 3
"""
words.spam = "yes"
words.ham = "no"

[[tasks.spam.prompt.en.examples]]
text = "a"
label = "spam"

[[tasks.spam.prompt.en.examples]]
text = "b"
label = "ham"
'''


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("tasks", 3),
        ("tasks.spam.kind", 4),
        ("tasks.spam.labels", 7),
        ("tasks.spam.labels.1", 7),
        ("tasks.spam.prompt.zh.words.ham", 11),
        ("tasks.spam.prompt.en", 13),
        ("tasks.spam.prompt.en.system", 14),
        ("tasks.spam.prompt.en.words.ham", 19),
        ("tasks.spam.prompt.en.examples.0.label", 23),
        ("tasks.spam.prompt.en.examples.1", 25),
        ("tasks.spam.prompt.en.examples.1.label", 27),
        ("tasks.spam.prompt.en.bias.spam", 13),
        ("tasks.spam.threshold", 3),
        ("tasks.other.kind", 3),
    ],
)
def test_the_line_of_a_field_or_of_the_table_it_is_missing_from(path: str, line: int) -> None:
    assert line_of(TEXT, path.split(".")) == line
    assert line_of(TEXT.replace("\n", "\r\n"), path.split(".")) == line


def test_what_is_not_there_at_all_or_no_toml_has_no_line() -> None:
    assert line_of(TEXT, ["other", "field"]) is None
    assert line_of("tasks = = 1", ["tasks"]) is None
    assert line_of("", ["tasks"]) is None


def test_an_error_that_only_the_whole_set_shows_names_the_line_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        '[tasks.echo]\nkind = "generate"\nafter = "mood"\nprompt.zh.system = "a"\nprompt.en.system = "a"\n'
    )
    with pytest.raises(ConfigError, match=r"mine\.toml, line 3: tasks\.echo\.after: 'mood' is not a label"):
        load_tasks(path)


def test_a_tasks_file_is_read_when_it_was_saved_and_a_broken_one_told_of_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    good = '[tasks.echo]\nkind = "generate"\nprompt.zh.system = "a"\nprompt.en.system = "a"\n'
    path.write_text(good)
    file = TaskFile(path)
    assert not file.changed
    assert not file.refresh()
    path.write_text(good.replace('"a"', '"be brief"'))
    before = file.tasks
    assert file.changed
    assert file.refresh()
    assert file.tasks.revision_of("echo") != before.revision_of("echo")
    assert file.tasks.revision_of("sentiment") == before.revision_of("sentiment")
    now = file.tasks
    path.write_text("[tasks.echo]")
    with pytest.raises(ConfigError, match=r"tasks\.echo\.kind"):
        file.refresh()
    assert not file.refresh()
    assert file.tasks is now
    path.unlink()
    with pytest.raises(ConfigError, match="cannot read"):
        file.refresh()
    assert not file.changed
    assert file.tasks is now


def test_a_revision_covers_the_other_tasks_that_an_answer_depends_on(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    shipped = load_tasks()
    path.write_text(
        '[tasks.sentiment]\nkind = "label"\nlabels = ["positive", "negative"]\n'
        'prompt.zh = { system = "好不好", words = { positive = "好", negative = "坏" } }\n'
        'prompt.en = { system = "Good?", words = { positive = "good", negative = "bad" } }\n'
    )
    changed = load_tasks(path)
    assert {name for name in shipped if changed.revision_of(name) != shipped.revision_of(name)} == {
        "sentiment",
        "reply",
    }
