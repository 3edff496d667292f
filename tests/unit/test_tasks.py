"""Task definitions: the shipped file, overlays, broken files, and the language of a text."""

from __future__ import annotations

from pathlib import Path

import pytest

from moodq_config.errors import ConfigError, ErrorCode
from moodq_config.tasks import LANGS, GenerateTask, LabelTask, detect_lang, load_tasks

SPAM = """
[tasks.spam]
kind = "label"
labels = ["spam", "ham"]
prompt.zh = { system = "判断", words = { spam = "是", ham = "否" } }
prompt.en = { system = "Judge", words = { spam = "yes", ham = "no" } }
"""

ASKING = """
[tasks.spam]
kind = "label"
layout = "text_first"
labels = ["spam", "ham"]
prompt.zh = { system = "答是或否", ask = "垃圾：", words = { spam = "是", ham = "否" } }
prompt.en = { system = "yes or no", ask = "Spam:", words = { spam = " yes", ham = " no" } }
"""


def overlay(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, "utf-8")
    return path


def test_the_shipped_file_has_sentiment_and_a_reply_that_it_steers_in_both_languages() -> None:
    tasks = load_tasks()
    sentiment, reply = tasks["sentiment"], tasks["reply"]
    assert isinstance(sentiment, LabelTask)
    assert isinstance(reply, GenerateTask)
    assert sentiment.labels == ("positive", "negative")
    assert sentiment.prompt["zh"].words == {"positive": "正面", "negative": "负面"}
    assert reply.after == "sentiment"
    for lang in LANGS:
        assert set(reply.prompt[lang].steer) == set(sentiment.labels)
        assert len(reply.prompt[lang].examples) >= 2, "without examples the default model refuses"


def test_an_overlay_adds_tasks_and_replaces_those_of_the_same_name(tmp_path: Path) -> None:
    shipped = load_tasks()
    merged = load_tasks(overlay(tmp_path, SPAM))
    assert set(merged) == {*shipped, "spam"}
    assert merged["sentiment"] == shipped["sentiment"]

    angry = (
        SPAM.replace("[tasks.spam]", "[tasks.sentiment]")
        .replace("spam", "positive")
        .replace("ham", "negative")
    )
    replaced = load_tasks(overlay(tmp_path, angry)).label_task("sentiment")
    assert replaced.prompt["en"].words["positive"] == "yes"


def test_tasks_that_ask_after_the_text_are_computed_together_and_others_alone(tmp_path: Path) -> None:
    tasks = load_tasks(overlay(tmp_path, ASKING + ASKING.replace("tasks.spam", "tasks.junk")))
    names = ["spam", "sentiment", "junk"]
    assert tasks.computed_with("spam", names) == ("spam", "junk")
    assert tasks.computed_with("junk", names) == ("junk", "spam")
    assert tasks.computed_with("sentiment", names) == ("sentiment",)


def test_calibration_is_part_of_a_task(tmp_path: Path) -> None:
    text = SPAM.replace("labels =", "threshold = 0.7\nlabels =").replace(
        'system = "Judge"', 'system = "Judge", bias = { spam = -0.5 }, temperature = 2.5'
    )
    spam = load_tasks(overlay(tmp_path, text)).label_task("spam")
    assert spam.threshold == 0.7
    assert spam.prompt["en"].temperature == 2.5
    assert (spam.prompt["zh"].temperature, load_tasks().label_task("sentiment").threshold) == (1.0, 0.0)


def test_the_revision_changes_with_any_edit_and_with_nothing_else(tmp_path: Path) -> None:
    first = load_tasks(overlay(tmp_path, SPAM)).revision
    assert load_tasks(overlay(tmp_path, SPAM)).revision == first
    assert load_tasks(overlay(tmp_path, SPAM.replace("Judge", "Decide"))).revision != first


BROKEN = {
    "no toml": ("tasks = = 1", ""),
    "other tables beside tasks": (SPAM + "\n[other]\nx = 1\n", "only [tasks.<name>]"),
    "no tasks at all": ("", "only [tasks.<name>]"),
    "tasks that are no tables": ("tasks = 3", "only [tasks.<name>]"),
    "a task that is no table": ("[tasks]\nspam = 3", "tasks.spam.kind"),
    "lists within lists, thousands deep": ("tasks = " + "[" * 5_000, ""),
    "a number of thousands of digits": ("tasks = " + "9" * 5_000, ""),
    "a kind that is no word": (SPAM.replace('"label"', "[1]"), "tasks.spam.kind"),
    "control characters in a name": (SPAM.replace("tasks.spam", 'tasks."\\u001b[2J"'), "tasks.\\x1b[2J"),
    "an unknown kind": (SPAM.replace('"label"', '"lable"'), "tasks.spam.kind"),
    "a name a request could not use": (SPAM.replace("tasks.spam", 'tasks."Spam-1"'), "tasks.Spam-1"),
    "a second name": (SPAM.replace("kind =", 'name = "ham"\nkind ='), "tasks.spam.name"),
    "a missing language": (SPAM.replace("prompt.zh", "prompt.en_"), "tasks.spam"),
    "a label without a word": (SPAM.replace(', ham = "否"', ""), "prompt.zh.words"),
    "two labels with one word": (SPAM.replace('"否"', '"是"'), "prompt.zh.words"),
    "a single label": (SPAM.replace(', "ham"]', "]"), "tasks.spam.labels"),
    "an unknown field": (SPAM.replace("labels =", "label = 1\nlabels ="), "tasks.spam.label"),
    "no place for the text": (SPAM.replace('system = "判断"', 'system = "a", user = "b"'), "prompt.zh.user"),
    "two places for the text": (
        SPAM.replace('system = "判断"', 'system = "a", user = "{text}{text}"'),
        "prompt.zh.user",
    ),
    "a bias for no label": (SPAM.replace('system = "判断"', 'system = "a", bias = { eggs = 1.0 }'), "'eggs'"),
    "a bias that is no number": (
        SPAM.replace('system = "判断"', 'system = "a", bias = { spam = nan }'),
        "tasks.spam.prompt.zh.bias.spam",
    ),
    "a temperature of nothing": (
        SPAM.replace('system = "判断"', 'system = "a", temperature = 0.0'),
        "tasks.spam.prompt.zh.temperature",
    ),
    "a threshold that is no probability": (
        SPAM.replace("labels =", "threshold = 1.5\nlabels ="),
        "tasks.spam.threshold",
    ),
    "a label that the threshold gives": (
        SPAM.replace("labels =", "threshold = 0.5\nlabels =").replace("ham", "uncertain"),
        "'uncertain'",
    ),
    "an example with no such label": (
        SPAM.replace('system = "判断"', 'system = "a", examples = [{ text = "x", label = "eggs" }]'),
        "'eggs'",
    ),
    "a reply after no task": (
        '[tasks.echo]\nkind = "generate"\nafter = "mood"\nprompt.zh.system = "a"\nprompt.en.system = "a"\n',
        "tasks.echo.after",
    ),
    "a reply after a reply": (
        '[tasks.echo]\nkind = "generate"\nafter = "reply"\nprompt.zh.system = "a"\nprompt.en.system = "a"\n',
        "tasks.echo.after",
    ),
    "steering by labels the judge does not give": (
        SPAM.replace("[tasks.spam]", "[tasks.sentiment]"),
        "tasks.reply.prompt.zh.steer",
    ),
    "an example of a label that steers nothing": (
        '[tasks.echo]\nkind = "generate"\nprompt.zh = { system = "a", '
        'examples = [{ text = "b", reply = "c", label = "x" }] }\nprompt.en = { system = "a" }\n',
        "prompt.zh.examples.0.label",
    ),
    "steering by nothing": (
        '[tasks.echo]\nkind = "generate"\nprompt.zh = { system = "a", steer = { x = "y" } }\n'
        'prompt.en.system = "a"\n',
        "prompt.zh.steer",
    ),
    "asking without text_first": (
        SPAM.replace('system = "判断"', 'system = "a", ask = "b"'),
        "prompt.zh.ask",
    ),
    "text_first without asking": (
        SPAM.replace("labels =", 'layout = "text_first"\nlabels ='),
        "prompt.zh.ask",
    ),
    "text_first with a turn of its own": (
        ASKING.replace('ask = "垃圾："', 'ask = "垃圾：", user = "看：{text}"'),
        "prompt.zh.user",
    ),
    "more tokens than are allowed": (
        '[tasks.echo]\nkind = "generate"\nmax_new_tokens = 2000\n'
        'prompt.zh.system = "a"\nprompt.en.system = "a"\n',
        "tasks.echo.max_new_tokens",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_refused_naming_file_and_field(what: str, tmp_path: Path) -> None:
    text, field = BROKEN[what]
    path = overlay(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_tasks(path)
    assert caught.value.code == ErrorCode.TASKS_INVALID
    assert str(path) in caught.value.message
    assert field in caught.value.message


def test_a_file_that_cannot_be_read_is_refused_naming_the_setting(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "missing.toml", tmp_path, binary):
        with pytest.raises(ConfigError, match="MOODQ_TASKS_FILE") as caught:
            load_tasks(path)
        assert caught.value.code == ErrorCode.TASKS_INVALID


def test_a_generate_task_is_not_handed_out_as_a_label_task() -> None:
    with pytest.raises(TypeError):
        load_tasks().label_task("reply")


@pytest.mark.parametrize(
    ("text", "lang"),
    [
        ("今天的实验终于成功了，太棒了！", "zh"),
        ("The courier never came.", "en"),
        ("我的 iPhone 15 Pro Max 坏了", "zh"),
        ("她说 thank you very much for everything", "en"),
        ("Booked a table at 海底捞 yesterday and nobody ever answered the phone there", "en"),
        ("㐀㐁㐂", "zh"),
        ("12345 !!!", "en"),
        ("", "en"),
    ],
)
def test_the_language_follows_the_letters(text: str, lang: str) -> None:
    assert detect_lang(text) == lang
