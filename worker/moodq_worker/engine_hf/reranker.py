"""Qwen3-Reranker: a causal model trained on one prompt, which its model card publishes.

It judges best, and was measured, with exactly this prompt; a task's own wording is only for chat models.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"qwen3[-_.]?reranker", re.IGNORECASE)

_BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the "
    'Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
YES, NO = "yes", "no"


def is_qwen3_reranker(model_id: str, model_type: str) -> bool:
    """By architecture and name: nothing else tells it from Qwen3, whose architecture it has."""
    return model_type == "qwen3" and _NAME.search(model_id) is not None


def published_prompt(instruct: str) -> tuple[str, str, str]:
    """The text before the query, between query and document, and after the document."""
    return f"{_BEFORE}<Instruct>: {instruct}\n<Query>: ", "\n<Document>: ", _AFTER
