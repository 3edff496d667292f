"""A label task as TOML, to be read back by ``load_tasks`` as the same task."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from moodq_config.tasks import LabelTask


def task_toml(task: LabelTask, comment: Iterable[str] = ()) -> str:
    """``comment`` stands above it, a line each."""
    lines = [f"# {line}".rstrip() for line in comment]
    lines += [
        "",
        f"[tasks.{_key(task.name)}]",
        'kind = "label"',
        *([f"description = {_string(task.description)}"] if task.description else []),
        f'layout = "{task.layout}"',
        f'cache = "{task.cache}"',
        f"labels = [{', '.join(map(_string, task.labels))}]",
        *([f"threshold = {task.threshold!r}"] if task.threshold else []),
    ]
    for lang, prompt in task.prompt.items():
        lines += ["", f"[tasks.{_key(task.name)}.prompt.{lang}]", f"system = {_string(prompt.system)}"]
        if prompt.user != "{text}":
            lines.append(f"user = {_string(prompt.user)}")
        if prompt.ask is not None:
            lines.append(f"ask = {_string(prompt.ask)}")
        lines.append(f"words = {_inline({label: _string(word) for label, word in prompt.words.items()})}")
        if prompt.bias:
            lines.append(f"bias = {_inline({label: repr(bias) for label, bias in prompt.bias.items()})}")
        if prompt.temperature != 1.0:
            lines.append(f"temperature = {prompt.temperature!r}")
        if prompt.examples:
            shown = [
                f"  {_inline({'text': _string(one.text), 'label': _string(one.label)})},"
                for one in prompt.examples
            ]
            lines += ["examples = [", *shown, "]"]
    return "\n".join(lines).lstrip("\n") + "\n"


def _inline(fields: Mapping[str, str]) -> str:
    return "{ " + ", ".join(f"{_key(name)} = {value}" for name, value in fields.items()) + " }"


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("-", "").replace("_", "").isalnum()
    return name if bare else _string(name)


def _string(text: str) -> str:
    """A JSON string is a TOML string, but for one control character that JSON leaves as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
