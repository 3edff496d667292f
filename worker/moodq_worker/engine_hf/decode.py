"""Replies: the protocol of what runs them, and what its implementations share.

``decode_loop`` (our own) and ``decode_continuous`` (over Transformers' continuous batching) are peers behind
it; ``decode_choice`` says which of them an engine gets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from transformers import PreTrainedModel

from moodq_worker.engine import DecodeEvent
from moodq_worker.engine_hf.grammar import Constraint
from moodq_worker.engine_hf.sampling import Sampler

#: What a text fails with whose logits are NaN or infinite.
NOT_FINITE = "no finite logits"


@dataclass(frozen=True, slots=True)
class Request:
    """One text to be answered: ``prefix`` is a fixed prompt, ``tokens`` follow it. ``constraint`` says what
    may come next, if not everything may; ``sampler`` draws it, if not the likeliest is taken."""

    key: int
    prefix: tuple[int, ...]
    tokens: tuple[int, ...]
    max_new_tokens: int
    repetition_penalty: float = 1.0
    constraint: Constraint | None = None
    sampler: Sampler | None = None

    @property
    def prompt_tokens(self) -> int:
        return len(self.prefix) + len(self.tokens)

    @property
    def most_tokens(self) -> int:
        """Tokens whose keys it may come to hold in the KV cache."""
        return self.prompt_tokens + self.max_new_tokens


@dataclass(slots=True)
class Answer:
    """What a running request has been answered so far."""

    request: Request
    made: list[int] = field(default_factory=list)
    shown: str = ""


class Decode(Protocol):
    """The running requests of one model. One thread only; whatever computes does so in the caller's.

    A ``join`` that raises leaves the requests that were running as they were; a ``step`` that raises calls
    for ``clear``. A request whose logits are NaN ends with an error event, or makes the pass raise where
    requests cannot be told apart.
    """

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> PreTrainedModel:
        """The model whose layers run within ``join`` and ``step``."""
        ...

    def fits(self, requests: Sequence[Request]) -> bool:
        """Whether these may join within the bound on KV memory; a single one in an empty batch may."""
        ...

    def join(self, requests: Sequence[Request]) -> None:
        """Prefill these and let them take part from the next step on. May step those that run, too."""
        ...

    def step(self) -> list[DecodeEvent]:
        """One token for every request; also the events of what ``join`` made since the last step."""
        ...

    def cancel(self, key: int) -> None:
        """Take a request out; it has no event any more. Unknown keys are ignored."""
        ...

    def clear(self) -> None:
        """Forget every request."""
        ...

    def __len__(self) -> int:
        """Requests that run."""
        ...


class Writer:
    """Turns the tokens of an answer into events."""

    def __init__(self, tokenizer: Any, stop_tokens: frozenset[int]) -> None:
        self._tokenizer = tokenizer
        self.stop_tokens = stop_tokens

    def take(self, answer: Answer, token: int) -> DecodeEvent:
        """Add ``token``; the event says whether the answer has ended with it."""
        key, made = answer.request.key, answer.made
        if token in self.stop_tokens:
            return DecodeEvent(key, self._new_text(answer, final=True), len(made), "stop")
        made.append(token)
        constraint = answer.request.constraint
        if constraint is not None and constraint.take(token):
            return DecodeEvent(key, self._new_text(answer, final=True), len(made), "stop")
        if len(made) >= answer.request.max_new_tokens:
            return DecodeEvent(key, self._new_text(answer, final=True), len(made), "length")
        return DecodeEvent(key, self._new_text(answer, final=False), len(made))

    def _new_text(self, answer: Answer, *, final: bool) -> str:
        """The text the newest tokens added; held back while a character is only half there."""
        text: str = self._tokenizer.decode(answer.made, skip_special_tokens=True)
        if not final and text.endswith("\ufffd"):
            return ""
        new = text[len(answer.shown) :]
        answer.shown = text
        return new
