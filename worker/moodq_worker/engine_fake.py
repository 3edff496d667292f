"""A deterministic engine without a model: a peer of ``engine_hf`` for tests of everything around it.

It labels by the words of the text, holds true the labels that are in it, ranks documents by the query's words
in them, extracts the least JSON that the schema allows, and answers with an echo, also of what was said
before. A text may ask for trouble: ``[[raise]]`` makes its batch raise, ``[[oom]]`` makes it run out of
memory, ``[[nan]]`` gives NaN, ``[[sleep 2]]`` takes two seconds, ``[[kill]]`` ends the process as the kernel
does when memory is short. ``[[raise later]]``, ``[[nan later]]`` and ``[[sleep later 2]]`` do so in the
second decode step of a reply, ``[[words 50]]`` makes the reply so much longer, ``[[step 0.1]]`` its decode
steps so slow.
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
from typing import Any

from moodq_config.answers import Judgement, LabelScores, LabelSet, Ranking, Score
from moodq_config.contracts import ModelRef
from moodq_config.tasks import (
    ChooseTask,
    ExtractTask,
    LabelTask,
    Lang,
    MultilabelTask,
    ScoreTask,
    Task,
    TaskSet,
)
from moodq_worker.engine import DecodeEvent, Generation, ModelInfo
from moodq_worker.extraction import write_json

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
    limit: int
    made: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """What is slept, in seconds: for a forward pass ``pass_s`` and ``token_s`` for each of its tokens, for a
    decode step ``step_s`` and ``row_s`` for each running text. Sleeping workers share no core, so that many
    of them show what everything around the engine costs."""

    pass_s: float = 0.0
    token_s: float = 0.0
    step_s: float = 0.0
    row_s: float = 0.0


@dataclass
class FakeEngine:
    """Costs nothing unless ``cost`` says so."""

    cost: Cost = Cost()
    _tasks: TaskSet | None = None
    _rows: dict[int, _Row] = field(default_factory=dict)
    _callback: Callable[[], None] | None = None

    @property
    def info(self) -> ModelInfo:
        ref = ModelRef(id="fake", revision="1", precision="none")
        return ModelInfo(ref=ref, device="none", threads=1, parameters=0)

    def use_tasks(self, tasks: TaskSet) -> None:
        self._tasks = tasks

    def retire_tasks(self) -> None:
        return None

    def warm_up(self, names: Sequence[str] | None = None) -> None:
        return None

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [list(text.encode()) for text in texts]

    def label(
        self,
        tasks: Sequence[str],
        lang: Lang,
        texts: Sequence[Sequence[int]],
        choices: Sequence[str] = (),
        *,
        of: TaskSet | None = None,
    ) -> list[list[Judgement]]:
        known = [self._known(of)[task] for task in tasks]
        decoded = [bytes(tokens).decode() for tokens in texts]
        self._spend(decoded, sum(map(len, texts)))
        return [[_judgement(task, text, tuple(choices)) for task in known] for text in decoded]

    def rerank(
        self,
        task: str,
        lang: Lang,
        query: Sequence[int],
        documents: Sequence[Sequence[int]],
        *,
        of: TaskSet | None = None,
    ) -> Ranking:
        asked = bytes(query).decode()
        self._spend([asked], len(query) + sum(map(len, documents)))
        words = set(asked.lower().split())
        found = [words & set(bytes(document).decode().lower().split()) for document in documents]
        scores = tuple(_nan_if_asked(asked, len(common) / len(words)) for common in found)
        return Ranking(scores=scores, ranking=tuple(sorted(range(len(scores)), key=lambda n: -scores[n])))

    def best_batch_tokens(self) -> int:
        return 512

    def between_layers(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def fits(self, generations: Sequence[Generation]) -> bool:
        return True

    def admit(self, generations: Sequence[Generation]) -> None:
        texts = [bytes(generation.tokens).decode() for generation in generations]
        self._spend(texts, sum(len(generation.tokens) for generation in generations))
        for generation, text in zip(generations, texts, strict=True):
            task = self._known(generation.of).write_task(generation.task)
            more = [f"w{n}" for n in range(int(found[1]))] if (found := _WORDS.search(text)) else []
            words = ["echo:", *text.split(), *more, *_echo_of(generation.history)]
            if isinstance(task, ExtractTask):
                words = [*more, write_json(_least(task.json_schema))]
            self._rows[generation.key] = _Row(generation, words, task.max_new_tokens)

    def step(self) -> list[DecodeEvent]:
        later = [" ".join(row.words) for row in self._rows.values() if row.made == 1]
        if any("[[raise later]]" in text for text in later):
            raise RuntimeError("the fake engine was asked to raise in a step")
        running = [" ".join(row.words) for row in self._rows.values()]
        asked = [float(found[1]) for text in later for found in _SLEEP_LATER.finditer(text)]
        asked += [float(found[1]) for text in running for found in _STEP.finditer(text)]
        cost = self.cost.step_s + len(self._rows) * self.cost.row_s if self._rows else 0.0
        self._sleep(max([cost, *asked]))
        return [self._advance(row) for row in list(self._rows.values())]

    def cancel(self, key: int) -> None:
        self._rows.pop(key, None)

    @property
    def running(self) -> int:
        return len(self._rows)

    def prompt_tokens(self, task: str, lang: Lang, *, of: TaskSet | None = None) -> int:
        return 0

    def _known(self, of: TaskSet | None) -> TaskSet:
        tasks = self._tasks if of is None else of
        if tasks is None:
            raise RuntimeError("use_tasks was not called")
        return tasks

    def _spend(self, texts: Sequence[str], tokens: int) -> None:
        if any("[[raise]]" in text for text in texts):
            raise RuntimeError("the fake engine was asked to raise")
        if any("[[oom]]" in text for text in texts):
            raise MemoryError
        asked = [float(match.group(1)) for text in texts if "[[" in text for match in _SLEEP.finditer(text)]
        self._sleep(max([self.cost.pass_s + tokens * self.cost.token_s, *asked]))
        if any("[[kill]]" in text for text in texts):
            os.kill(os.getpid(), signal.SIGKILL)

    def _sleep(self, seconds: float) -> None:
        for _ in range(LAYERS):
            if self._callback is not None:
                self._callback()
            if seconds:
                time.sleep(seconds / LAYERS)

    def _advance(self, row: _Row) -> DecodeEvent:
        word = row.words[row.made]
        if row.made == 1 and "[[nan later]]" in " ".join(row.words):
            del self._rows[row.generation.key]
            return DecodeEvent(row.generation.key, "", row.made, error="the fake engine was asked for NaN")
        row.made += 1
        ended = row.made == len(row.words)
        if ended or row.made >= row.limit:
            del self._rows[row.generation.key]
            return DecodeEvent(row.generation.key, word, row.made, "stop" if ended else "length")
        return DecodeEvent(row.generation.key, word + " ", row.made)


def _echo_of(history: Sequence[Sequence[int]]) -> list[str]:
    said = " | ".join(bytes(turn).decode() for turn in history)
    return f"(after: {said})".split() if history else []


def _judgement(task: Task, text: str, choices: tuple[str, ...]) -> Judgement:
    if isinstance(task, MultilabelTask):
        scores = {label: _nan_if_asked(text, 0.9 if label in text else 0.1) for label in task.labels}
        return LabelSet(labels=tuple(label for label in task.labels if scores[label] > 0.5), scores=scores)
    if isinstance(task, ScoreTask):
        found = _label(tuple(task.values), text).scores
        return Score(score=sum(value * found[name] for name, value in task.values.items()), scores=found)
    if isinstance(task, ChooseTask):
        return _label(choices, text, next((label for label in choices if label in text), choices[0]))
    assert isinstance(task, LabelTask)  # noqa: S101 - the loop asks ``rerank`` for the others
    return LabelScores.of(_label(task.labels, text).scores, task.threshold)


def _label(labels: tuple[str, ...], text: str, chosen: str | None = None) -> LabelScores:
    if "[[nan]]" in text:
        return LabelScores(label=labels[0], probability=math.nan, scores=dict.fromkeys(labels, math.nan))
    if chosen is None:
        chosen = labels[1] if any(word in text.lower() for word in _BAD_WORDS) else labels[0]
    return _confident(labels, chosen)


def _nan_if_asked(text: str, score: float) -> float:
    return math.nan if "[[nan]]" in text else score


def _least(schema: dict[str, Any]) -> Any:
    """The least value that a plain schema allows."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "object":
            return {name: _least(schema["properties"][name]) for name in schema.get("required", ())}
        case "array":
            return [_least(schema["items"]) for _ in range(schema.get("minItems", 0))]
        case "string":
            return "x" * schema.get("minLength", 0)
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
    return None
