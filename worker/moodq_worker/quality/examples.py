"""Labelled texts to judge a task by: lines of label, tab, text."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from moodq_config.errors import ConfigError
from moodq_config.tasks import LabelTask, Lang, detect_lang

SEED = 20_260_101


@dataclass(frozen=True, slots=True)
class Example:
    text: str
    label: str
    lang: Lang


def read_examples(path: Path | None, task: LabelTask) -> list[Example]:
    """Lines of ``label<TAB>text``; without a file the messages the demo ships.

    Raises ``ConfigError`` naming file and line for anything else.
    """
    if path is None:
        source = resources.files("moodq_worker").joinpath("demo_messages.toml").read_text("utf-8")
        pairs = [(m.get("label", ""), m["text"]) for m in tomllib.loads(source)["messages"]]
        return [Example(text, label, detect_lang(text)) for label, text in pairs if label in task.labels]
    try:
        lines = path.read_text("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: is not UTF-8 ({error.reason} at byte {error.start}); convert it"
        ) from None
    examples = []
    for number, line in enumerate(lines, 1):
        label, tab, text = line.partition("\t")
        if not line.strip():
            continue
        if not tab or label not in task.labels or not text.strip():
            raise ConfigError(
                f"{path}:{number}: must be a label, a tab and a text; labels of {task.name}: "
                f"{', '.join(task.labels)}"
            )
        examples.append(Example(text.strip(), label, detect_lang(text)))
    if not examples:
        raise ConfigError(f"{path} holds no lines of label, tab and text")
    return examples


def sampled(examples: Sequence[Example], count: int | None) -> list[Example]:
    """``count`` of them, the same every time; all where there are no more, or none is asked."""
    if count is None or count >= len(examples):
        return list(examples)
    return random.Random(SEED).sample(list(examples), count)  # noqa: S311 - to choose, not to keep a secret
