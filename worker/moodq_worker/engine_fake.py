"""A deterministic engine without a model: a peer of ``engine_hf`` for tests of everything around it.

It labels by the words of the text and answers with an echo; a text may ask for trouble:
``[[raise]]`` makes its batch raise, ``[[oom]]`` makes it run out of memory, ``[[nan]]`` gives NaN,
``[[sleep 2]]`` takes two seconds, ``[[kill]]`` ends the process as the kernel does when memory is short.
``[[raise later]]``, ``[[nan later]]`` and ``[[sleep later 2]]`` do so in the second decode step of a reply,
``[[words 50]]`` makes the reply so much longer, ``[[step 0.1]]`` its decode steps so slow.
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
_SLEEP_LATER = re.compile(r"\[\[sleep later (\d+(?:\.\d+)?)\]\]")
_STEP = re.compile(r"\[\[step (\d+(?:\.\d+)?)\]\]")
_WORDS = re.compile(r"\[\[words (\d+)\]\]")
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
        texts = [bytes(generation.tokens).decode() for generation in generations]
        self._spend(texts)
        for generation, text in zip(generations, texts, strict=True):
            more = [f"w{n}" for n in range(int(found[1]))] if (found := _WORDS.search(text)) else []
            self._rows[generation.key] = _Row(generation, ["echo:", *text.split(), *more])

    def step(self) -> list[DecodeEvent]:
        if self._rows and self.seconds_per_batch:
            time.sleep(self.seconds_per_batch)
        later = [" ".join(row.words) for row in self._rows.values() if row.made == 1]
        if any("[[raise later]]" in text for text in later):
            raise RuntimeError("the fake engine was asked to raise in a step")
        running = [" ".join(row.words) for row in self._rows.values()]
        asked = [float(found[1]) for text in later for found in _SLEEP_LATER.finditer(text)]
        asked += [float(found[1]) for text in running for found in _STEP.finditer(text)]
        self._sleep(max(asked, default=0.0))
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
        if any("[[oom]]" in text for text in texts):
            raise MemoryError
        asked = [float(match.group(1)) for text in texts if "[[" in text for match in _SLEEP.finditer(text)]
        self._sleep(max([self.seconds_per_batch, *asked]))
        if any("[[kill]]" in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)

    def _sleep(self, seconds: float) -> None:
        for _ in range(LAYERS):
            if self._callback is not None:
                self._callback()
            if seconds:
                time.sleep(seconds / LAYERS)

    def _scores(self, text: str, labels: tuple[str, ...]) -> LabelScores:
        if "[[nan]]" in text:
            return LabelScores(label=labels[0], probability=math.nan, scores=dict.fromkeys(labels, math.nan))
        chosen = labels[1] if any(word in text.lower() for word in _BAD_WORDS) else labels[0]
        return _confident(labels, chosen)

    def _advance(self, row: _Row) -> DecodeEvent:
        task = self._known()[row.generation.task]
        limit = task.max_new_tokens if isinstance(task, GenerateTask) else 1
        word = row.words[row.made]
        if row.made == 1 and "[[nan later]]" in " ".join(row.words):
            del self._rows[row.generation.key]
            return DecodeEvent(row.generation.key, "", row.made, error="the fake engine was asked for NaN")
        row.made += 1
        ended = row.made == len(row.words)
        if ended or row.made >= limit:
            del self._rows[row.generation.key]
            return DecodeEvent(row.generation.key, word, row.made, "stop" if ended else "length")
        return DecodeEvent(row.generation.key, word + " ", row.made)
