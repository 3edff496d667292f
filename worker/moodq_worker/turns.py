"""A task's prompt as chat turns: the system prompt and the examples, before the text.

What ``engine_hf`` renders by the model's chat template and ``remote`` sends as messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from moodq_config.task_kinds import ChoosePrompt, GeneratePrompt, LabelPrompt


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    content: str


def label_turns(prompt: LabelPrompt) -> list[Turn]:
    """System prompt and examples of a label or score prompt as chat turns."""
    turns = [Turn("system", prompt.system)]
    for example in prompt.examples:
        turns += exchange(prompt.user.replace("{text}", example.text), prompt.words[example.label])
    return turns


def choose_turns(prompt: ChoosePrompt) -> list[Turn]:
    turns = [Turn("system", prompt.system)]
    for example in prompt.examples:
        labels = prompt.separator.join(example.labels)
        user = prompt.user.replace("{labels}", labels).replace("{text}", example.text)
        turns += exchange(user, example.label)
    return turns


def generate_turns(prompt: GeneratePrompt, label: str | None) -> list[Turn]:
    """System prompt (with the sentence that ``label`` calls for) and the examples that go with ``label`` as
    chat turns."""
    steer = prompt.steer.get(label) if label else None
    turns = [Turn("system", f"{prompt.system}\n{steer}" if steer else prompt.system)]
    for example in prompt.examples:
        if example.label in (None, label):
            turns += exchange(prompt.user.replace("{text}", example.text), example.reply)
    return turns


def exchange(user: str, assistant: str) -> list[Turn]:
    return [Turn("user", user), Turn("assistant", assistant)]
