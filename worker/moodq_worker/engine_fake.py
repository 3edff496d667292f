"""A deterministic engine without a model: a peer of ``engine_hf`` for tests of everything around it.

It labels by the words of the text and answers with an echo; a text may ask for trouble:
``[[raise]]`` makes its batch raise, ``[[nan]]`` gives NaN, ``[[sleep 2]]`` takes two seconds, ``[[kill]]``
ends the process as the kernel does when memory is short.
"""

from __future__ import annotations

import math
import os
import re
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from moodq_config.contracts import LabelScores, ModelRef
from moodq_config.tasks import GenerateTask, Lang, TaskSet
from moodq_worker.engine import DecodeEvent, Generation, ModelInfo

_SLEEP = re.compile(r"\[\[sleep (\d+(?:\.\d+)?)\]\]")
LAYERS = 8
_BAD_WORDS = ("bad", "差", "坏", "angry", "terrible", "糟")


@cache
def _confident(labels: tuple[str, ...], chosen: str) -> LabelScores:
    rest = 0.1 / (len(labels) - 1)
    scores = {label: 0.9 if label == chosen else rest for label in labels}
    return LabelScores(label=chosen, probability=0.9, scores=scores)


@dataclass
class _Row:
    generation: Generation
    words: list[str]
    made: int = 0


@dataclass
class FakeEngine:
    """``seconds_per_batch`` simulates the cost of a forward pass by sleeping."""

    seconds_per_batch: float = 0.0
    _tasks: TaskSet | None = None
    _rows: dict[int, _Row] = field(default_factory=dict)
    _callback: Callable[[], None] | None = None

    @property
    def info(self) -> ModelInfo:
        ref = ModelRef(id="fake", revision="1", precision="none")
        return ModelInfo(ref=ref, device="none", threads=1, parameters=0)

    def use_tasks(self, tasks: TaskSet) -> None:
        self._tasks = tasks

    def warm_up(self) -> None:
        return None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def label(
        self, tasks: Sequence[str], lang: Lang, texts: Sequence[Sequence[int]]
    ) -> list[list[LabelScores]]:
        labels = [self._known().label_task(task).labels for task in tasks]
        decoded = [bytes(tokens).decode() for tokens in texts]
        self._spend(decoded)
        return [[self._scores(text, choice) for choice in labels] for text in decoded]

    def best_batch_tokens(self) -> int:
        return 512

    def between_layers(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def fits(self, generations: Sequence[Generation]) -> bool:
        return True

    def admit(self, generations: Sequence[Generation]) -> None:
        for generation in generations:
            text = bytes(generation.tokens).decode()
            self._spend([text])
            words = ["echo:", *text.split()]
            self._rows[generation.key] = _Row(generation, words)

    def step(self) -> list[DecodeEvent]:
        if self._rows and self.seconds_per_batch:
            time.sleep(self.seconds_per_batch)
        return [self._advance(row) for row in list(self._rows.values())]

    def cancel(self, key: int) -> None:
        self._rows.pop(key, None)

    @property
    def running(self) -> int:
        return len(self._rows)

    def prompt_tokens(self, task: str, lang: Lang) -> int:
        return 0

    def _known(self) -> TaskSet:
        if self._tasks is None:
            raise RuntimeError("use_tasks was not called")
        return self._tasks

    def _spend(self, texts: Sequence[str]) -> None:
        if any("[[raise]]" in text for text in texts):
            raise RuntimeError("the fake engine was asked to raise")
        asked = [float(match.group(1)) for text in texts if "[[" in text for match in _SLEEP.finditer(text)]
        seconds = max([self.seconds_per_batch, *asked])
        for _ in range(LAYERS):
            if self._callback is not None:
                self._callback()
            if seconds:
                time.sleep(seconds / LAYERS)
        if any("[[kill]]" in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)

    def _scores(self, text: str, labels: tuple[str, ...]) -> LabelScores:
        if "[[nan]]" in text:
            return LabelScores(label=labels[0], probability=math.nan, scores=dict.fromkeys(labels, math.nan))
        chosen = labels[1] if any(word in text.lower() for word in _BAD_WORDS) else labels[0]
        return _confident(labels, chosen)

    def _advance(self, row: _Row) -> DecodeEvent:
        task = self._known()[row.generation.task]
        limit = task.max_new_tokens if isinstance(task, GenerateTask) else 1
        word = row.words[row.made]
        row.made += 1
        ended = row.made == len(row.words)
        if ended or row.made >= limit:
            del self._rows[row.generation.key]
            return DecodeEvent(row.generation.key, word, row.made, "stop" if ended else "length")
        return DecodeEvent(row.generation.key, word + " ", row.made)
