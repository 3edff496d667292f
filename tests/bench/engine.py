"""moodq's engine without queue or Redis, in a child process: the bare forward pass, growth, and the prompts
that peers are given."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from moodq_config.tasks import GenerateTask, load_tasks

from .child import Child

TASK = "sentiment"
GROWTH_SECONDS = 1.0
#: KV cache of the replies, as a worker has it by default.
KV_TOKENS = 24_576


class EngineModel:
    """Lives in the child process."""

    def __init__(self, model: str, precision: str) -> None:
        from moodq_worker.engine_hf import load_engine

        self._tasks = load_tasks()
        self._engine: Any = load_engine(
            Path(model), model_id="bench", revision="", licence="", device="auto", precision=precision,
            threads=0,
        )  # fmt: skip
        self._engine.use_tasks(self._tasks)
        self._engine.warm_up()
        self._decodes: dict[str, Any] = {}
        self._warm: set[str] = set()

    def forward_s(self, text: str, lang: str) -> float:
        """Seconds of the forward pass over one text's new tokens."""
        tokens = self._engine.encode([text])
        began = time.perf_counter()
        self._engine.label([TASK], lang, tokens)
        return time.perf_counter() - began

    def tokens_per_s(self, row_tokens: int, batch_tokens: int) -> float:
        """Speed of batches of ``batch_tokens`` of rows of ``row_tokens``, kernels compiled beforehand."""
        head = self._engine._book.judging(TASK, "en").heads[0]
        words = self._engine.encode(["the parcel came late and the box was wet "])[0] * (row_tokens + 1)
        rows = [words[: max(1, row_tokens - len(head.suffix))]] * max(1, batch_tokens // row_tokens)
        self._engine.label([TASK], "en", rows)
        began, passes = time.perf_counter(), 0
        while time.perf_counter() - began < GROWTH_SECONDS:
            self._engine.label([TASK], "en", rows)
            passes += 1
        return passes * len(rows) * row_tokens / (time.perf_counter() - began)

    def label_prompts(self, texts: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """For each (text, language) the tokens of prefix and rest, and each label's first token."""
        prompts = []
        for (_, lang), tokens in zip(texts, self._engine.encode([text for text, _ in texts]), strict=True):
            judging = self._engine._book.judging(TASK, lang)
            head, prefix = judging.heads[0], list(judging.prefix)
            labels = {label: word[0] for label, word in zip(head.labels, head.words, strict=True)}
            prompts.append({"prefix": prefix, "rest": [*tokens, *head.suffix], "labels": labels})
        return prompts

    def reply_prompts(self, texts: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Whole prompts as the worker would make them for a displeased customer, and when to stop."""
        task = next(task for task in self._tasks.values() if isinstance(task, GenerateTask))
        prompts = []
        for (_, lang), tokens in zip(texts, self._engine.encode([text for text, _ in texts]), strict=True):
            writing = self._engine._book.writing(task.name, lang, "negative")
            prompts.append({"prefix": list(writing.prefix), "rest": [*tokens, *writing.suffix]})
        stop = sorted(self._engine._decode._writer.stop_tokens)
        return {"prompts": prompts, "stop": stop, "max_new_tokens": task.max_new_tokens}

    def replies(self, way: str, prompts: Sequence[dict[str, Any]], limit: int) -> tuple[int, float]:
        """(tokens made, seconds) of ``prompts`` that join at once, by the ``Decode`` called ``way``, over the
        weights that are loaded already and with the fixed prompts in the KV cache."""
        from moodq_worker.engine_hf.decode import Request

        decode = self._decode(way)
        asked = [
            Request(key, tuple(prompt["prefix"]), tuple(prompt["rest"]), limit)
            for key, prompt in enumerate(prompts)
        ]
        if way not in self._warm:
            self._warm.add(way)
            decode.join(asked)
            decode.step()
            decode.clear()
        tokens: dict[int, int] = {}
        began = time.perf_counter()
        decode.join(asked)
        while len(decode):
            tokens |= {event.key: event.tokens for event in decode.step()}
        tokens |= {event.key: event.tokens for event in decode.step()}
        return sum(tokens.values()), time.perf_counter() - began

    def _decode(self, way: str) -> Any:
        if way not in self._decodes:
            from moodq_worker.engine_hf.decode_choice import make_decodes

            engine = self._engine
            [self._decodes[way]] = make_decodes(
                way, engine._model, engine._decode._writer, engine._prefixes, KV_TOKENS,
                engine.info.ref.precision,
            )  # fmt: skip
        return self._decodes[way]


class BareEngine(Child):
    def __init__(self, model: str, precision: str) -> None:
        super().__init__("engine:EngineModel", model=model, precision=precision)
