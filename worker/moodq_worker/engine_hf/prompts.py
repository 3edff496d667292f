"""From a task's prompt to token ids: a fixed prefix, the text, a short fixed suffix.

The model's own chat template does the formatting, so any family works: a marker is put where the text
goes, and the rendered prompt is cut there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from moodq_config.errors import ErrorCode, ModelError
from moodq_config.tasks import GeneratePrompt, GenerateTask, LabelPrompt, LabelTask, Lang

_MARKER = "\x02TEXT\x03"


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """``prefix`` goes into the KV cache once; ``suffix`` follows each text."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    role: str
    content: str


def label_turns(prompt: LabelPrompt) -> list[Turn]:
    """System prompt and examples of a label prompt as chat turns."""
    turns = [Turn("system", prompt.system)]
    for example in prompt.examples:
        turns.append(Turn("user", prompt.user.replace("{text}", example.text)))
        turns.append(Turn("assistant", prompt.words[example.label]))
    return turns


def text_first_turns(tasks: Sequence[LabelTask], lang: Lang) -> list[Turn]:
    """The prompt that all tasks asked after the text share: what each asks, then each one's examples."""
    prompts = [task.prompt[lang] for task in tasks]
    turns = [Turn("system", "\n".join(f"{prompt.ask} {prompt.system}" for prompt in prompts))]
    for prompt in prompts:
        for example in prompt.examples:
            turns.append(Turn("user", example.text))
            turns.append(Turn("assistant", f"{prompt.ask}{prompt.words[example.label]}"))
    return turns


def generate_turns(prompt: GeneratePrompt, label: str | None) -> list[Turn]:
    """System prompt (with the sentence that ``label`` calls for) and examples as chat turns."""
    steer = prompt.steer.get(label) if label else None
    turns = [Turn("system", f"{prompt.system}\n{steer}" if steer else prompt.system)]
    for example in prompt.examples:
        turns.append(Turn("user", prompt.user.replace("{text}", example.text)))
        turns.append(Turn("assistant", example.reply))
    return turns


def steering_labels(task: GenerateTask, prompt: GeneratePrompt) -> Iterable[str | None]:
    """Every label a generate task's prompt may be steered by; None where nothing steers."""
    return tuple(prompt.steer) or (None,)


def tokenize_prompt(tokenizer: Any, turns: list[Turn], user: str) -> PromptTokens:
    """Render ``turns`` and the user turn around the text, and cut at the text.

    Raises ``ModelError`` (model_invalid) when the model has no chat template that keeps the text whole.
    """
    messages = [{"role": turn.role, "content": turn.content} for turn in turns]
    messages.append({"role": "user", "content": user.replace("{text}", _MARKER)})
    if not tokenizer.chat_template:
        raise ModelError(
            "the model has no chat template; use an instruct or chat model", code=ErrorCode.MODEL_INVALID
        )
    # Thinking models (Qwen3) open a thought unless told not to; other templates ignore the argument.
    rendered = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
    )
    before, marker, after = rendered.partition(_MARKER)
    if not marker:
        raise ModelError("the model's chat template changes the user's text", code=ErrorCode.MODEL_INVALID)
    return PromptTokens(
        prefix=tuple(tokenizer.encode(before, add_special_tokens=False)),
        suffix=tuple(tokenizer.encode(after, add_special_tokens=False)),
    )
