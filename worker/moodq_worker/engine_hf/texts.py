"""Text to tokens, for the intake's thread and the engine's alike: the tokenizer is shared and keeps state."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from moodq_worker.engine_hf.prompts import Tokens, cut_exchange, cut_prompt
from moodq_worker.turns import Turn


def read_tokenizer(path: Path) -> Any:
    """The tokenizer in folder ``path``. Raises what Transformers raises: OSError, ValueError and others."""
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    # The vocabulary and merges of which the tokenizer proper was made, as Python objects: 64 MB that are read
    # again only when a tokenizer is saved.
    for copy in ("_vocab", "_merges"):
        vars(tokenizer).pop(copy, None)
    return tokenizer


class Texts:
    """Tells what strangers wrote from what the prompts say: only in prompts are special tokens special."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._lock = threading.Lock()

    def foreign(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text. To a text, ``<|im_end|>`` and its like are only characters: a message cannot
        close its own turn."""
        backend = self._tokenizer.backend_tokenizer
        with self._lock:
            backend.encode_special_tokens = True
            encodings = backend.encode_batch(list(texts), add_special_tokens=False)
        return [list(encoding.ids) for encoding in encodings]

    def own(self, text: str) -> Tokens:
        """Tokens of a piece of a prompt."""
        with self._lock:
            return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def prompt(self, turns: list[Turn], user: str, *names: str) -> tuple[Tokens, ...]:
        """The tokens of a prompt around what stands for ``names``; see ``prompts.cut_prompt``."""
        with self._lock:
            return cut_prompt(self._tokenizer, turns, user, *names)

    def exchange(self, turns: list[Turn], user: str) -> tuple[Tokens, ...]:
        """The tokens around an earlier exchange and a new message; see ``prompts.cut_exchange``."""
        with self._lock:
            return cut_exchange(self._tokenizer, turns, user)
