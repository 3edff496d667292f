"""The kinds of task, each with its prompt in every language, and what makes a definition consistent.

``label``, ``multilabel``, ``score``, ``choose`` and ``rerank`` are judged: one forward pass, nothing is
generated. ``generate`` and ``extract`` are written token by token. ``docs/tasks.md`` has an example of each.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    model_validator,
)

from moodq_config.answers import UNCERTAIN
from moodq_config.contracts import MAX_LABELS, RequestLabel, TaskName

Lang = Literal["zh", "en"]
LANGS: tuple[Lang, ...] = ("zh", "en")

NonEmpty = Annotated[str, StringConstraints(min_length=1, max_length=4_000)]
Short = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Label = Annotated[str, StringConstraints(pattern=r"^[^\s\x00-\x1f]{1,64}$")]
Cache = Literal["off", "exact", "template"]

#: Bounds of a schema: what is written for every text must stay small.
MAX_SCHEMA_BYTES = 8_192
MAX_SCHEMA_DEPTH = 16


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Checked(_Frozen):
    """A task, whose fields must fit each other: ``_faults`` gives all that do not, each beginning with the
    field within the task."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if found := list(self._faults()):
            raise ValueError("\n".join(found))
        return self

    def _faults(self) -> Iterator[str]:
        raise NotImplementedError


class LabelExample(_Frozen):
    text: NonEmpty
    label: Label


class LabelPrompt(_Frozen):
    """``words`` maps each label to what the model would say for it in this language.

    ``bias`` is added to a label's log-probability before they are normalised: it corrects a model that
    leans to one side. The sum is divided by ``temperature``: above 1 for a model that is surer than it is
    right. ``user`` must hold ``{text}`` once. ``ask`` is what the answer of a ``text_first`` task begins
    with, before the word: short, for it is computed for every text.
    """

    system: NonEmpty
    user: NonEmpty = "{text}"
    ask: Short | None = None
    words: dict[Label, NonEmpty]
    bias: dict[Label, FiniteFloat] = Field(default_factory=dict)
    temperature: FiniteFloat = Field(1.0, ge=0.01, le=100.0)
    examples: tuple[LabelExample, ...] = ()


class LabelTask(_Checked):
    """Choose among ``labels``: one forward pass, no generation, nothing but a label can come out.

    ``layout`` says where the instruction stands. ``instruction_first``: before the text, in a prompt of the
    task's own; labels are best so. ``text_first``: all tasks of this layout share one prompt that names them
    all, and ask after the text with ``ask``; a text with several of them is computed once.

    ``cache``: ``exact`` answers the same text again from Redis; ``template`` also a text that differs only in
    numbers, addresses, ids and dates, as log lines do; ``off`` neither.

    A text whose most probable label is less probable than ``threshold`` gets the label ``uncertain``.
    """

    name: TaskName
    kind: Literal["label"]
    description: str = ""
    layout: Literal["instruction_first", "text_first"] = "instruction_first"
    cache: Cache = "exact"
    labels: tuple[Label, ...] = Field(min_length=2, max_length=64)
    threshold: FiniteFloat = Field(0.0, ge=0.0, le=1.0)
    prompt: dict[Lang, LabelPrompt]

    def _faults(self) -> Iterator[str]:
        yield from _every_language(self.prompt)
        if self.threshold and UNCERTAIN in self.labels:
            yield f"threshold gives the label {UNCERTAIN!r}, so no label may be named so"
        for lang, prompt in self.prompt.items():
            yield from _placeholders(f"prompt.{lang}.user", prompt.user, "{text}")
            if (self.layout == "text_first") != (prompt.ask is not None):
                yield f'prompt.{lang}.ask goes with layout = "text_first", and that needs it'
            if self.layout == "text_first" and prompt.user != "{text}":
                yield f"prompt.{lang}.user: text_first tasks share a prompt; leave it out"
            yield from _words(f"prompt.{lang}", prompt, self.labels)


class ScoreTask(_Checked):
    """A number: the mean of ``values``, weighted by the odds of their words. Two values, as ``{no = 0, yes =
    1}``, give the probability of the one; a scale has more."""

    name: TaskName
    kind: Literal["score"]
    description: str = ""
    cache: Cache = "exact"
    values: dict[Label, FiniteFloat] = Field(min_length=2, max_length=16)
    prompt: dict[Lang, LabelPrompt]

    def _faults(self) -> Iterator[str]:
        yield from _every_language(self.prompt)
        if len(set(self.values.values())) < 2:
            yield "values must differ, or the score is always the same"
        for lang, prompt in self.prompt.items():
            yield from _placeholders(f"prompt.{lang}.user", prompt.user, "{text}")
            if prompt.ask is not None:
                yield f"prompt.{lang}.ask: only label tasks of the layout text_first have it"
            yield from _words(f"prompt.{lang}", prompt, tuple(self.values))


class MultilabelExample(_Frozen):
    """One question about one text, and whether the label holds."""

    text: NonEmpty
    label: Label
    holds: bool


class MultilabelPrompt(_Frozen):
    """``user`` must hold ``{text}`` and after it ``{ask}``. ``ask`` maps each label to the question put
    there: short, for all of them are computed for every text. ``yes`` and ``no`` are the words of the answer;
    ``bias`` is added to a label's log-odds."""

    system: NonEmpty
    user: NonEmpty = "{text}\n{ask}"
    ask: dict[Label, Short]
    yes: Short
    no: Short
    bias: dict[Label, FiniteFloat] = Field(default_factory=dict)
    examples: tuple[MultilabelExample, ...] = ()


class MultilabelTask(_Checked):
    """Which of ``labels`` hold: each is judged by itself, by the odds of yes and no; one pass answers all.
    A label holds when its probability reaches its entry in ``thresholds``, else ``threshold``."""

    name: TaskName
    kind: Literal["multilabel"]
    description: str = ""
    cache: Cache = "exact"
    labels: tuple[Label, ...] = Field(min_length=1, max_length=32)
    threshold: float = Field(0.5, gt=0.0, lt=1.0)
    thresholds: dict[Label, Annotated[float, Field(gt=0.0, lt=1.0)]] = Field(default_factory=dict)
    prompt: dict[Lang, MultilabelPrompt]

    def _faults(self) -> Iterator[str]:
        yield from _every_language(self.prompt)
        yield from _known("thresholds", self.thresholds, self.labels)
        for lang, prompt in self.prompt.items():
            where = f"prompt.{lang}"
            yield from _placeholders(f"{where}.user", prompt.user, "{text}", "{ask}")
            if set(prompt.ask) != set(self.labels):
                yield f"{where}.ask must have exactly the labels {list(self.labels)}"
            if prompt.yes == prompt.no:
                yield f"{where}.yes and .no must differ"
            yield from _known(f"{where}.bias", prompt.bias, self.labels)
            yield from _known(
                f"{where}.examples", [example.label for example in prompt.examples], self.labels
            )

    def threshold_of(self, label: str) -> float:
        return self.thresholds.get(label, self.threshold)


class ChooseExample(_Frozen):
    text: NonEmpty
    labels: tuple[RequestLabel, ...] = Field(min_length=2, max_length=MAX_LABELS)
    label: RequestLabel


class ChoosePrompt(_Frozen):
    """``user`` must hold ``{labels}``, which become the request's labels joined by ``separator``, and
    after it ``{text}``: what texts share is computed once for all of them.

    ``calibration``: how much of its liking for some of the labels, before it has read anything, is taken off
    the model's answer; 0 nothing, 1 all.
    """

    system: NonEmpty
    user: NonEmpty
    separator: Short = ", "
    calibration: float = Field(0.5, ge=0.0, le=1.0)
    examples: tuple[ChooseExample, ...] = ()


class ChooseTask(_Checked):
    """Choose among labels that come with the item. They are the words that the model would say."""

    name: TaskName
    kind: Literal["choose"]
    description: str = ""
    cache: Literal["off", "exact"] = "exact"
    prompt: dict[Lang, ChoosePrompt]

    def _faults(self) -> Iterator[str]:
        yield from _every_language(self.prompt)
        for lang, prompt in self.prompt.items():
            yield from _placeholders(f"prompt.{lang}.user", prompt.user, "{labels}", "{text}")
            for example in prompt.examples:
                yield from _known(f"prompt.{lang}.examples", (example.label,), example.labels)


class RerankExample(_Frozen):
    query: NonEmpty
    document: NonEmpty
    relevant: bool


class RerankPrompt(_Frozen):
    """``user`` must hold ``{query}`` and after it ``{document}``. ``instruct`` is the instruction of models
    that come with a prompt of their own for this (Qwen3-Reranker); the rest is not used for them."""

    system: NonEmpty
    user: NonEmpty
    yes: Short
    no: Short
    instruct: NonEmpty
    examples: tuple[RerankExample, ...] = ()


class RerankTask(_Checked):
    """How relevant each of the item's documents is to its text, the query, by the odds of yes and no."""

    name: TaskName
    kind: Literal["rerank"]
    description: str = ""
    cache: Literal["off"] = "off"
    prompt: dict[Lang, RerankPrompt]

    def _faults(self) -> Iterator[str]:
        yield from _every_language(self.prompt)
        for lang, prompt in self.prompt.items():
            yield from _placeholders(f"prompt.{lang}.user", prompt.user, "{query}", "{document}")
            if prompt.yes == prompt.no:
                yield f"prompt.{lang}.yes and .no must differ"


class ReplyExample(_Frozen):
    """``label``: shown only where that label steers; without it, always."""

    text: NonEmpty
    reply: NonEmpty
    label: Label | None = None


class GeneratePrompt(_Frozen):
    """``steer`` maps a label of the task named in ``after`` to a sentence added to the system prompt."""

    system: NonEmpty
    user: NonEmpty = "{text}"
    steer: dict[Label, NonEmpty] = Field(default_factory=dict)
    examples: tuple[ReplyExample, ...] = ()


class GenerateTask(_Checked):
    """Write text. ``after`` names a label task that is run first on the same text and steers the prompt.

    ``conversation``: what it writes is said to the customer. It knows what was said before in the item's
    conversation and joins it, and it is left out while a person answers there.
    """

    name: TaskName
    kind: Literal["generate"]
    #: ``exact`` gives the same text the same answer again; a service desk may not want that.
    cache: Literal["off", "exact"] = "off"
    description: str = ""
    after: str | None = None
    conversation: bool = False
    max_new_tokens: int = Field(96, ge=1, le=1_024)
    repetition_penalty: float = Field(1.0, ge=1.0, le=2.0)
    #: 0: always the likeliest token. Above it tokens are drawn, from the likeliest that make up ``top_p``.
    temperature: float = Field(0.0, ge=0.0, le=2.0)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    prompt: dict[Lang, GeneratePrompt]

    def _faults(self) -> Iterator[str]:
        yield from _every_language(self.prompt)
        for lang, prompt in self.prompt.items():
            yield from _placeholders(f"prompt.{lang}.user", prompt.user, "{text}")
            if prompt.steer and not self.after:
                yield f"prompt.{lang}.steer needs `after`, the label task it listens to"
            for number, example in enumerate(prompt.examples):
                if example.label is not None and example.label not in prompt.steer:
                    known = ", ".join(prompt.steer) or "none"
                    yield (
                        f"prompt.{lang}.examples.{number}.label {example.label!r} steers nothing; labels of "
                        f"prompt.{lang}.steer: {known}"
                    )


class ExtractExample(_Frozen):
    """``data`` is the answer, which the schema must allow (the worker checks it)."""

    text: NonEmpty
    data: Any


class ExtractPrompt(_Frozen):
    system: NonEmpty
    user: NonEmpty = "{text}"
    examples: tuple[ExtractExample, ...] = ()


class ExtractTask(_Checked):
    """Write JSON that ``schema`` (JSON Schema) allows, whatever the text says. Give every string a
    ``maxLength`` and every list a ``maxItems``, so that it ends before ``max_new_tokens``."""

    name: TaskName
    kind: Literal["extract"]
    cache: Literal["off", "exact"] = "exact"
    description: str = ""
    max_new_tokens: int = Field(128, ge=1, le=1_024)
    json_schema: dict[str, Any] = Field(alias="schema", min_length=1)
    prompt: dict[Lang, ExtractPrompt]

    def _faults(self) -> Iterator[str]:
        yield from _every_language(self.prompt)
        for lang, prompt in self.prompt.items():
            yield from _placeholders(f"prompt.{lang}.user", prompt.user, "{text}")
        try:
            size = len(json.dumps(self.json_schema, ensure_ascii=False))
        except TypeError as error:
            yield f"schema must be JSON: {error}"
            return
        if size > MAX_SCHEMA_BYTES:
            yield f"schema has {size} characters as JSON, the limit is {MAX_SCHEMA_BYTES}"
        if _depth(self.json_schema) > MAX_SCHEMA_DEPTH:
            yield f"schema is nested more than {MAX_SCHEMA_DEPTH} levels deep; flatten it"

    @property
    def repetition_penalty(self) -> float:
        return 1.0  # JSON repeats itself


JudgeTask = LabelTask | MultilabelTask | ScoreTask | ChooseTask | RerankTask
WriteTask = GenerateTask | ExtractTask
Task = JudgeTask | WriteTask

KINDS: dict[str, type[Task]] = {
    "label": LabelTask,
    "multilabel": MultilabelTask,
    "score": ScoreTask,
    "choose": ChooseTask,
    "rerank": RerankTask,
    "generate": GenerateTask,
    "extract": ExtractTask,
}


def _every_language(prompt: dict[Lang, Any]) -> Iterator[str]:
    for lang in LANGS:
        if lang not in prompt:
            yield f"prompt.{lang} is missing; every task speaks zh and en"


def _placeholders(where: str, user: str, *names: str) -> Iterator[str]:
    """``user`` must hold each of ``names`` once, in this order, and nothing may be taken for another."""
    if wrong := [name for name in names if user.count(name) != 1]:
        yield from (f"{where} must hold {name} exactly once" for name in wrong)
        return
    found = re.findall("|".join(map(re.escape, names)), user)
    if found != list(names):
        yield f"{where} must hold {' before '.join(names)}"


def _words(where: str, prompt: LabelPrompt, labels: tuple[str, ...]) -> Iterator[str]:
    if set(prompt.words) != set(labels):
        yield f"{where}.words must have exactly the labels {list(labels)}"
    if len(set(prompt.words.values())) != len(prompt.words):
        yield f"{where}.words must differ from each other"
    yield from _known(where, [*prompt.bias, *(example.label for example in prompt.examples)], labels)


def _known(where: str, named: Iterable[str], labels: tuple[str, ...]) -> Iterator[str]:
    for label in named:
        if label not in labels:
            yield f"{where} names {label!r}, which is not one of {list(labels)}"


def _depth(value: object) -> int:
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max(map(_depth, children), default=0)
