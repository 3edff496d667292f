"""The range of every activation of an int8 model, measured on the messages and prompts that moodq ships.

Only tokens after a prompt's fixed part are looked at: its first tokens carry activations that no text has.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from moodq_config.errors import ConfigError
from moodq_config.tasks import LANGS, detect_lang, load_tasks
from moodq_worker.engine_hf.fused_layers import layers_to_fuse
from moodq_worker.engine_hf.int8 import LayerRange
from moodq_worker.engine_hf.kv_cache import PrefillCache, compute_prefix
from moodq_worker.engine_hf.prefill import last_hidden
from moodq_worker.engine_hf.prompts import cut_prompt
from moodq_worker.turns import generate_turns, label_turns

BATCH_ROWS = 8


def calibrate(model: PreTrainedModel, tokenizer: Any) -> list[LayerRange]:
    """One range per decoder layer. Raises ``ConfigError`` for families whose layers are not known."""
    layers = layers_to_fuse(model)
    if layers is None:
        raise ConfigError(
            "MOODQ_PRECISION: int8 knows the Llama and Qwen2 families, not "
            f"{model.config.model_type}; use bf16 or auto"
        )
    source = resources.files("moodq_worker").joinpath("demo_messages.toml").read_text("utf-8")
    messages = [message["text"] for message in tomllib.loads(source)["messages"]]
    tasks = load_tasks()
    ranges: list[LayerRange] = [{} for _ in layers]
    for lang in LANGS:
        texts = [text for text in messages if detect_lang(text) == lang]
        asked = tasks.label_task("sentiment").prompt[lang]
        answered = next(iter(tasks.generates())).prompt[lang]
        # What a reply is made of: an answer, after a question.
        answers = [example.reply for example in answered.examples]
        for prompt, turns, tails in (
            (asked, label_turns(asked), [""]),
            (answered, generate_turns(answered, None), answers),
        ):
            before, after = cut_prompt(tokenizer, turns, prompt.user, "{text}")
            prefix = compute_prefix(model, before)
            rows = [
                [*_encode(tokenizer, text), *after, *_encode(tokenizer, tails[number % len(tails)])]
                for number, text in enumerate(texts)
            ]
            rows.sort(key=len)
            with _observed(layers, ranges):
                for start in range(0, len(rows), BATCH_ROWS):
                    batch = rows[start : start + BATCH_ROWS]
                    width = len(batch[-1])
                    # Repeated rather than padded: padding would be measured too.
                    ids = torch.tensor([(row * width)[:width] for row in batch])
                    cache = PrefillCache([prefix] * len(batch), width, keep=False)
                    last_hidden(model, cache, ids, torch.full((len(batch),), width - 1))
    return ranges


def _encode(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


@contextmanager
def _observed(layers: list[Any], ranges: list[LayerRange]) -> Iterator[None]:
    """Widen ``ranges`` by what the layers' products are given while within."""

    def note(into: LayerRange, name: Any) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
            seen = args[0].detach().abs().flatten(0, -2).amax(dim=0).float()
            into[name] = torch.maximum(into[name], seen) if name in into else seen

        return hook

    hooks = [
        module.register_forward_pre_hook(note(into, name))
        for layer, into in zip(layers, ranges, strict=True)
        for name, module in (
            ("qkv", layer.self_attn.q_proj),
            ("o", layer.self_attn.o_proj),
            ("mlp", layer.mlp.gate_proj),
            ("down", layer.mlp.down_proj),
        )
    ]
    try:
        with torch.inference_mode():
            yield
    finally:
        for hook in hooks:
            hook.remove()
