"""The tasks' prompts made ready for one model: tokenized when first asked for, and never for nothing.

``engine`` asks here what to run a text with, and what the numbers mean; the KV caches of the fixed parts are
``prefixes``' business.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from moodq_config.answers import Judgement, LabelScores, LabelSet, Score
from moodq_config.errors import ErrorCode, ModelError
from moodq_config.task_kinds import (
    ChooseTask,
    GeneratePrompt,
    GenerateTask,
    LabelTask,
    Lang,
    MultilabelTask,
    RerankTask,
    ScoreTask,
    Task,
)
from moodq_config.tasks import TaskSet
from moodq_worker.engine_hf.labels import LabelHead
from moodq_worker.engine_hf.prompts import (
    Tokens,
    extract_turns,
    multilabel_turns,
    rerank_turns,
    text_first_turns,
)
from moodq_worker.engine_hf.reranker import NO, YES, is_qwen3_reranker, published_prompt
from moodq_worker.engine_hf.texts import Texts
from moodq_worker.turns import Turn, choose_turns, generate_turns, label_turns


@dataclass(frozen=True, slots=True)
class Judging:
    """What judges a text by one task: ``heads``, in one pass, on top of the fixed prompt ``prefix`` and of
    ``before``, which the texts of one pass share. ``calibration``: see ``labels.calibrated``."""

    prefix: Tokens
    heads: tuple[LabelHead, ...]
    before: Tokens = ()
    calibration: float = 0.0


@dataclass(frozen=True, slots=True)
class Writing:
    """What a text is answered with: the fixed prompt, and what follows the text."""

    prefix: Tokens
    suffix: Tokens


@dataclass(frozen=True, slots=True)
class Talking:
    """What stands between turns of a conversation: after a message, and after its answer."""

    answered: Tokens
    next: Tokens


class PromptBook:
    """One model's prompts of the tasks in use. Used from the engine's thread. ``output`` is the output
    matrix, ``end`` the token that ends a turn."""

    def __init__(
        self, model: PreTrainedModel, model_id: str, texts: Texts, output: torch.Tensor, end: int
    ) -> None:
        self._texts = texts
        self._output = output
        self._device = model.device
        self._end = end
        self._is_reranker = is_qwen3_reranker(model_id, str(model.config.model_type))
        self.tasks = TaskSet({})
        self._judging: dict[tuple[str, Lang], Judging] = {}
        self._choosing: dict[tuple[str, Lang], tuple[Tokens, ...]] = {}
        self._writing: dict[tuple[str, Lang, str | None], Writing] = {}
        self._talking: dict[tuple[str, Lang, str | None], Talking] = {}

    def of(self, tasks: TaskSet) -> PromptBook:
        """A book of other definitions for the same model; what they have in common is not made again."""
        book = copy(self)
        kept = {name for name in {*tasks} & {*self.tasks} if _same(name, tasks, self.tasks)}
        book.tasks = tasks
        book._judging = {key: made for key, made in self._judging.items() if key[0] in kept}
        book._choosing = {key: made for key, made in self._choosing.items() if key[0] in kept}
        book._writing = {key: made for key, made in self._writing.items() if key[0] in kept}
        book._talking = {key: made for key, made in self._talking.items() if key[0] in kept}
        return book

    @property
    def prefixes(self) -> set[Tokens]:
        """The fixed prompts made so far."""
        judging = {one.prefix for one in self._judging.values()}
        writing = {one.prefix for one in self._writing.values()}
        return judging | writing | {pieces[0] for pieces in self._choosing.values()}

    def judging(self, name: str, lang: Lang, choices: Sequence[str] = ()) -> Judging:
        """``choices`` are the request's labels, for a task that chooses among them."""
        task = self.tasks[name]
        if isinstance(task, ChooseTask):
            return self._choose(task, lang, tuple(choices))
        if (made := self._judging.get((name, lang))) is None:
            made = self._judging[name, lang] = self._make_judging(task, lang)
        return made

    def writing(self, name: str, lang: Lang, label: str | None) -> Writing:
        """``label`` steers the prompt of a task that listens to one."""
        key = self._writing_key(name, lang, label)
        if (made := self._writing.get(key)) is None:
            turns, user = self._turns(*key)
            made = self._writing[key] = Writing(*self._texts.prompt(turns, user, "{text}"))
        return made

    def new_tokens(
        self, name: str, lang: Lang, label: str | None, text: Sequence[int], history: Sequence[Sequence[int]]
    ) -> Tokens:
        """What follows the fixed prompt of ``writing``: the turns of ``history``, which ``Generation``
        describes, and the text. Raises ``ModelError`` where the model's chat template has no place for
        them."""
        made: list[int] = []
        if history:
            talking = self._talk(self._writing_key(name, lang, label))
            for number, turn in enumerate(history, 1):
                made += turn
                if number % 2 == 0:
                    made += talking.next
                elif number < len(history):
                    made += talking.answered
        return (*made, *text, *self.writing(name, lang, label).suffix)

    def _writing_key(self, name: str, lang: Lang, label: str | None) -> tuple[str, Lang, str | None]:
        task = self.tasks.write_task(name)
        steers = isinstance(task, GenerateTask) and task.prompt[lang].steer
        return name, lang, label if steers else None

    def _turns(self, name: str, lang: Lang, label: str | None) -> tuple[list[Turn], str]:
        task = self.tasks.write_task(name)
        prompt = task.prompt[lang]
        if isinstance(prompt, GeneratePrompt):
            return generate_turns(prompt, label), prompt.user
        return extract_turns(prompt), prompt.user

    def _talk(self, key: tuple[str, Lang, str | None]) -> Talking:
        if (made := self._talking.get(key)) is None:
            prefix, answered, after, suffix = self._texts.exchange(*self._turns(*key))
            if Writing(prefix, suffix) != self.writing(*key):
                raise ModelError(
                    "the model's chat template changes a prompt when turns follow it; leave conversation = "
                    "true out of the task, or use another model",
                    code=ErrorCode.MODEL_INVALID,
                )
            made = self._talking[key] = Talking(answered, after)
        return made

    def answer(self, name: str, found: Sequence[LabelScores]) -> Judgement:
        """What the task says, of what its heads gave."""
        task = self.tasks[name]
        if isinstance(task, MultilabelTask):
            scores = {label: one.scores[YES] for label, one in zip(task.labels, found, strict=True)}
            held = tuple(label for label in task.labels if scores[label] >= task.threshold_of(label))
            return LabelSet(labels=held, scores=scores)
        if isinstance(task, ScoreTask):
            odds = found[0].scores
            return Score(score=sum(value * odds[label] for label, value in task.values.items()), scores=odds)
        return LabelScores.of(found[0].scores, task.threshold) if isinstance(task, LabelTask) else found[0]

    def _make_judging(self, task: Task, lang: Lang) -> Judging:
        if isinstance(task, RerankTask):
            return self._rerank(task, lang)
        if isinstance(task, MultilabelTask):
            return self._multilabel(task, lang)
        if not isinstance(task, LabelTask | ScoreTask):
            raise ModelError(f"{task.name} is not judged", code=ErrorCode.ENGINE_FAILED)
        prompt = task.prompt[lang]
        labels = task.labels if isinstance(task, LabelTask) else tuple(task.values)
        turns = label_turns(prompt)
        if isinstance(task, LabelTask) and task.layout == "text_first":
            together = [other for other in self.tasks.labels() if other.layout == "text_first"]
            turns = text_first_turns(together, lang)
        prefix, suffix = self._texts.prompt(turns, prompt.user, "{text}")
        words = [self._texts.own(prompt.words[label]) for label in labels]
        bias = [prompt.bias.get(label, 0.0) for label in labels]
        ask = self._texts.own(prompt.ask or "")
        return Judging(prefix, (self._head(labels, words, suffix, bias, ask, prompt.temperature),))

    def _multilabel(self, task: MultilabelTask, lang: Lang) -> Judging:
        prompt = task.prompt[lang]
        names = "{text}", "{ask}"
        prefix, between, after = self._texts.prompt(multilabel_turns(prompt), prompt.user, *names)
        words = [self._texts.own(prompt.yes), self._texts.own(prompt.no)]
        heads = []
        for label in task.labels:
            ask = (*self._texts.own(prompt.ask[label]), *after)
            heads.append(self._head((YES, NO), words, between, [prompt.bias.get(label, 0.0), 0.0], ask))
        return Judging(prefix, tuple(heads))

    def _choose(self, task: ChooseTask, lang: Lang, labels: tuple[str, ...]) -> Judging:
        prompt = task.prompt[lang]
        if (pieces := self._choosing.get((task.name, lang))) is None:
            pieces = self._texts.prompt(choose_turns(prompt), prompt.user, "{labels}", "{text}")
            self._choosing[task.name, lang] = pieces
        prefix, between, suffix = pieces
        [listed, *words] = map(tuple, self._texts.foreign([prompt.separator.join(labels), *labels]))
        if any(word != other and other[: len(word)] == word for word in words for other in words):
            # "sport" is the beginning of "sport betting": only with their ends can they be told apart.
            words = [(*word, self._end) for word in words]
        head = self._head(labels, words, suffix)
        return Judging(prefix, (head,), (*listed, *between), prompt.calibration)

    def _rerank(self, task: RerankTask, lang: Lang) -> Judging:
        prompt = task.prompt[lang]
        if self._is_reranker:
            prefix, between, suffix = map(self._texts.own, published_prompt(prompt.instruct))
            words = [self._texts.own(YES), self._texts.own(NO)]
        else:
            names = "{query}", "{document}"
            prefix, between, suffix = self._texts.prompt(rerank_turns(prompt), prompt.user, *names)
            words = [self._texts.own(prompt.yes), self._texts.own(prompt.no)]
        return Judging(prefix, (self._head((YES, NO), words, suffix),), between)

    def _head(
        self,
        labels: tuple[str, ...],
        words: Sequence[Tokens],
        suffix: Tokens,
        bias: Sequence[float] = (),
        ask: Tokens = (),
        temperature: float = 1.0,
    ) -> LabelHead:
        return LabelHead(
            labels=labels,
            words=tuple(words),
            bias=torch.tensor(bias or [0.0] * len(labels)),
            rows=self._output[[word[0] for word in words]].float().to(self._device),
            suffix=suffix,
            ask=ask,
            temperature=temperature,
        )


def _same(name: str, some: TaskSet, others: TaskSet) -> bool:
    return some.revision_of(name) == others.revision_of(name)
