"""The article's way: one text at a time, ``generate`` with at most five new tokens, and the label is
whichever word turns up in what was generated."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from moodq_config.tasks import LabelTask, load_tasks

from .child import Child
from .measure import Outcome
from .texts import Labelled

MAX_NEW_TOKENS = 5
_MARKER = "\x02TEXT\x03"


class ArticleModel:
    """Lives in the child process: the model, used just so. Greedy, chat template, the same question that
    moodq's ``sentiment`` asks (its system prompt, without examples)."""

    def __init__(self, model: str, precision: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging

        from moodq_worker.cores import usable_cores

        logging.disable_progress_bar()
        torch.set_num_threads(usable_cores())
        self._torch = torch
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model, local_files_only=True)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, local_files_only=True)
        self._model: Any = loaded.eval()
        task = load_tasks()["sentiment"]
        assert isinstance(task, LabelTask)
        self._task = task

    def run(self, texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """``texts`` are (text, language); gives ``wall_s``, ``latencies_s`` and ``labels``."""
        latencies, labels = [], []
        for text, lang in texts:
            begin = time.perf_counter()
            labels.append(self._read_label(self._generate(text, lang), lang))
            latencies.append(time.perf_counter() - begin)
        return {"wall_s": sum(latencies), "latencies_s": latencies, "labels": labels}

    def new_tokens(self, texts: Sequence[tuple[str, str]]) -> list[int]:
        """Tokens a text adds to its task's fixed prompt: its own, and those of the template after it."""
        suffixes = {}
        for lang in self._task.prompt:
            after = self._rendered(_MARKER, lang).partition(_MARKER)[2]
            suffixes[lang] = len(self._tokenizer.encode(after, add_special_tokens=False))
        return [
            len(self._tokenizer.encode(text, add_special_tokens=False)) + suffixes[lang]  # type: ignore[index]
            for text, lang in texts
        ]

    def body_parameters(self) -> int:
        """Parameters every new token is multiplied by: all but the two embedding matrices."""
        outside = {
            id(self._model.get_input_embeddings().weight),
            id(self._model.get_output_embeddings().weight),
        }
        return sum(p.numel() for p in self._model.parameters() if id(p) not in outside)

    def _rendered(self, text: str, lang: str) -> str:
        prompt = self._task.prompt[lang]  # type: ignore[index]
        messages = [
            {"role": "system", "content": prompt.system},
            {"role": "user", "content": prompt.user.replace("{text}", text)},
        ]
        rendered: str = self._tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
        return rendered

    def _generate(self, text: str, lang: str) -> str:
        inputs = self._tokenizer([self._rendered(text, lang)], return_tensors="pt")
        with self._torch.inference_mode():
            output = self._model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        made = output[0][inputs["input_ids"].shape[1] :]
        answer: str = self._tokenizer.decode(made, skip_special_tokens=True)
        return answer

    def _read_label(self, answer: str, lang: str) -> str | None:
        words = self._task.prompt[lang].words  # type: ignore[index]
        found = {label: answer.lower().find(word.lower()) for label, word in words.items()}
        first = sorted((place, label) for label, place in found.items() if place >= 0)
        return first[0][1] if first else None


class ArticleWay:
    """The row: ``ArticleModel`` in a process of its own."""

    def __init__(self, model: str, precision: str) -> None:
        self.name = f"article's way, {precision}"
        self.texts_times = 1
        self._child = Child("article:ArticleModel", model=model, precision=precision)

    def run(self, texts: Sequence[Labelled]) -> Outcome:
        return Outcome(**self._child.call("run", _pairs(texts)))

    def new_tokens(self, texts: Sequence[Labelled]) -> list[int]:
        counts: list[int] = self._child.call("new_tokens", _pairs(texts))
        return counts

    def body_parameters(self) -> int:
        return int(self._child.call("body_parameters"))

    def close(self) -> None:
        self._child.close()


def _pairs(texts: Sequence[Labelled]) -> list[tuple[str, str]]:
    return [(text.text, text.lang) for text in texts]
