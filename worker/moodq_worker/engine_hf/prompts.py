"""From a task's prompt to token ids: a fixed prefix, the text, a short part after it.

The model's own chat template does the formatting, so any family works: markers are put where text of others
goes, and the rendered prompt is cut there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from moodq_config.errors import ErrorCode, ModelError
from moodq_config.task_kinds import (
    ExtractPrompt,
    GeneratePrompt,
    GenerateTask,
    LabelTask,
    Lang,
    MultilabelPrompt,
    RerankPrompt,
)
from moodq_worker.extraction import write_json
from moodq_worker.turns import Turn, exchange

Tokens = tuple[int, ...]


def text_first_turns(tasks: Sequence[LabelTask], lang: Lang) -> list[Turn]:
    """The prompt that all tasks asked after the text share: what each asks, then each one's examples."""
    prompts = [task.prompt[lang] for task in tasks]
    turns = [Turn("system", "\n".join(f"{prompt.ask} {prompt.system}" for prompt in prompts))]
    for prompt in prompts:
        for example in prompt.examples:
            turns += exchange(example.text, f"{prompt.ask}{prompt.words[example.label]}")
    return turns


def multilabel_turns(prompt: MultilabelPrompt) -> list[Turn]:
    turns = [Turn("system", prompt.system)]
    for example in prompt.examples:
        user = prompt.user.replace("{ask}", prompt.ask[example.label]).replace("{text}", example.text)
        turns += exchange(user, prompt.yes if example.holds else prompt.no)
    return turns


def rerank_turns(prompt: RerankPrompt) -> list[Turn]:
    turns = [Turn("system", prompt.system)]
    for example in prompt.examples:
        user = prompt.user.replace("{query}", example.query).replace("{document}", example.document)
        turns += exchange(user, prompt.yes if example.relevant else prompt.no)
    return turns


def extract_turns(prompt: ExtractPrompt) -> list[Turn]:
    turns = [Turn("system", prompt.system)]
    for example in prompt.examples:
        turns += exchange(prompt.user.replace("{text}", example.text), write_json(example.data))
    return turns


def steering_labels(task: GenerateTask, prompt: GeneratePrompt) -> Iterable[str | None]:
    """Every label a generate task's prompt may be steered by; None where nothing steers."""
    return tuple(prompt.steer) or (None,)


def cut_prompt(tokenizer: Any, turns: list[Turn], user: str, *names: str) -> tuple[Tokens, ...]:
    """Render ``turns`` and the user turn, and cut where each of ``names``, as ``{text}``, stands in it: the
    tokens before the first, between them, and after the last.

    Raises ``ModelError`` (model_invalid) when the model has no chat template that keeps the text whole.
    """
    marks = [_mark(name) for name in names]
    for name, mark in zip(names, marks, strict=True):
        user = user.replace(name, mark)
    return _cut(tokenizer, [*turns, Turn("user", user)], marks)


def cut_exchange(tokenizer: Any, turns: list[Turn], user: str) -> tuple[Tokens, ...]:
    """The same of one exchange after ``turns`` and a new message after it, both in ``user`` for ``{text}``:
    the tokens before the earlier message, between it and its answer, from there to the new one, and after."""
    marks = [_mark(name) for name in ("earlier", "answer", "text")]
    earlier, answer, text = marks
    said = exchange(user.replace("{text}", earlier), answer)
    return _cut(tokenizer, [*turns, *said, Turn("user", user.replace("{text}", text))], marks)


def _mark(name: str) -> str:
    return f"\x02{name}\x03"


def _cut(tokenizer: Any, turns: Sequence[Turn], marks: Sequence[str]) -> tuple[Tokens, ...]:
    if not tokenizer.chat_template:
        raise ModelError(
            "the model has no chat template; use an instruct or chat model", code=ErrorCode.MODEL_INVALID
        )
    # Thinking models (Qwen3) open a thought unless told not to; other templates ignore the argument.
    rest = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in turns],
        tokenize=False,
        add_generation_prompt=True,
        enable_thinking=False,
    )
    pieces = []
    for mark in marks:
        piece, found, rest = rest.partition(mark)
        if not found:
            raise ModelError(
                "the model's chat template changes the user's text", code=ErrorCode.MODEL_INVALID
            )
        pieces.append(piece)
    return tuple(tuple(tokenizer.encode(piece, add_special_tokens=False)) for piece in [*pieces, rest])
