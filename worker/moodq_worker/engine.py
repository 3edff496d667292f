"""The one protocol between the worker and a model, in the field's words: prefill, decode, batch.

``engine_hf`` (Transformers) and ``engine_fake`` (deterministic, for queue tests) are peers behind it. An
engine is used from one thread, except ``encode``, which the intake calls while a forward pass runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from moodq_config.answers import Judgement, Ranking
from moodq_config.contracts import ModelRef
from moodq_config.tasks import Lang, TaskSet


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is loaded. ``ref`` is named in every result; ``parameters`` is a count."""

    ref: ModelRef
    device: str
    threads: int
    parameters: int
    licence: str = ""


@dataclass(frozen=True, slots=True)
class Generation:
    """A text that a task writes about. ``tokens`` are the text's own tokens; ``label`` steers the prompt;
    ``of`` is the set the task is one of, as in ``Engine.label``.

    ``history`` has the tokens of what was said before: a customer's message, its answer, and so on in turn.
    One message without its answer may come last: ``tokens`` go on where it ends.
    """

    key: int
    task: str
    lang: Lang
    label: str | None
    tokens: Sequence[int]
    of: TaskSet | None = None
    history: Sequence[Sequence[int]] = ()


@dataclass(frozen=True, slots=True)
class DecodeEvent:
    """What one decode step made for one text: ``text`` is new text (may be empty), ``finish_reason`` is set
    on the last event, ``tokens`` counts the tokens made so far. An ``error`` ends it too: the text has
    left the batch."""

    key: int
    text: str
    tokens: int
    finish_reason: Literal["stop", "length"] | None = None
    error: str | None = None


class Engine(Protocol):
    """One model. Every method may raise; ``loop`` turns that into failed items, never into lost ones."""

    @property
    def info(self) -> ModelInfo: ...

    def use_tasks(self, tasks: TaskSet) -> None:
        """These task definitions are in force from now on. The KV cache of a fixed prompt is computed when a
        text first needs it; prompts that are as before keep theirs."""
        ...

    def retire_tasks(self) -> None:
        """Forget the definitions that are not in force any more, and free what was computed for them."""
        ...

    def warm_up(self, names: Sequence[str] | None = None) -> None:
        """Run the tasks ``names`` (None: all) once on a short text in every language, which computes their
        prompts. Raises when the model gives no usable numbers."""
        ...

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, without special tokens. Safe to call from another thread."""
        ...

    def label(
        self,
        tasks: Sequence[str],
        lang: Lang,
        texts: Sequence[Sequence[int]],
        choices: Sequence[str] = (),
        *,
        of: TaskSet | None = None,
    ) -> list[list[Judgement]]:
        """What each task says of each text, ``[text][task]``; one forward pass over new tokens. Several tasks
        must be of the layout ``text_first``. ``choices`` are the labels of a task that chooses among the
        request's. ``of`` is the set the tasks are of; None: the one in force."""
        ...

    def rerank(
        self,
        task: str,
        lang: Lang,
        query: Sequence[int],
        documents: Sequence[Sequence[int]],
        *,
        of: TaskSet | None = None,
    ) -> Ranking:
        """How relevant each document is to ``query``, which is prefilled once for all of them."""
        ...

    def best_batch_tokens(self) -> int:
        """New tokens of a label batch beyond which a larger one gains little, measured here and now."""
        ...

    def between_layers(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` again and again within ``label``, ``rerank``, ``admit`` and ``step``, every few
        milliseconds where the engine can. It may call ``label`` in turn."""
        ...

    def fits(self, generations: Sequence[Generation]) -> bool:
        """Whether these may join the decode batch within the bound on KV memory. One alone always may."""
        ...

    def admit(self, generations: Sequence[Generation]) -> None:
        """Prefill these texts and let them join the running decode batch."""
        ...

    def step(self) -> list[DecodeEvent]:
        """One decode step for every running text. An empty list when none runs."""
        ...

    def cancel(self, key: int) -> None:
        """Drop a running text from the decode batch; unknown keys are ignored."""
        ...

    @property
    def running(self) -> int:
        """Texts in the decode batch."""
        ...

    def prompt_tokens(self, task: str, lang: Lang, *, of: TaskSet | None = None) -> int:
        """Tokens of the task's fixed prompt that the KV cache saves each text (prefix-cache metrics)."""
        ...
