"""A task as chat messages, and what an endpoint's answer means: the messages of ``client``.

The answer counts only if it is one of the labels, or a text that is not blank; whatever the text or the
endpoint says, nothing else comes out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from moodq_config.answers import ChosenLabel, GeneratedText, LabelScores
from moodq_config.task_kinds import ChooseTask, GenerateTask, LabelTask, Lang, Task
from moodq_worker.remote.client import Completion, Message, RemoteError
from moodq_worker.turns import Turn, choose_turns, exchange, generate_turns, label_turns

#: Tokens a label may take; one is a word or two.
LABEL_TOKENS = 24
#: Characters a reply may have for each token it may take: more than any tokenizer puts into one.
CHARS_PER_TOKEN = 16
ONLY = {"en": "Answer with nothing but one of: {words}", "zh": "只回答以下其中一个：{words}"}
#: What models put around a word.
AROUND = " \t\r\n\"'`*.,:;!()[]<>。，：；！“”‘’「」《》（）【】"

RemoteAnswer = LabelScores | ChosenLabel | GeneratedText


@dataclass(frozen=True, slots=True)
class Question:
    """One task of one text. ``label`` steers a reply; ``choices`` came with the request; ``earlier`` is what
    was said before: a customer's message, its answer, and so on."""

    task: Task
    lang: Lang
    text: str
    label: str | None = None
    choices: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()

    @property
    def max_tokens(self) -> int:
        return self.task.max_new_tokens if isinstance(self.task, GenerateTask) else LABEL_TOKENS

    def words(self) -> dict[str, str]:
        """What the model would say for each label; empty for a task that writes."""
        if isinstance(self.task, LabelTask):
            return {label: self.task.prompt[self.lang].words[label] for label in self.task.labels}
        return {label: label for label in self.choices}

    def messages(self) -> list[Message]:
        task = self.task
        if isinstance(task, GenerateTask):
            reply = task.prompt[self.lang]
            *said, text = [*self.earlier, self.text] if len(self.earlier) % 2 == 0 else self._in_one_turn()
            turns = generate_turns(reply, self.label)
            for message, answer in zip(said[::2], said[1::2], strict=True):
                turns += exchange(reply.user.replace("{text}", message), answer)
            return _messages(turns, reply.user.replace("{text}", text))
        only = ONLY[self.lang].format(words=", ".join(self.words().values()))
        if isinstance(task, LabelTask):
            label = task.prompt[self.lang]
            return _messages(label_turns(label), label.user.replace("{text}", self.text), only)
        assert isinstance(task, ChooseTask)  # noqa: S101 - the stage hands no others over
        choose = task.prompt[self.lang]
        before, _, after = choose.user.partition("{text}")  # the text may hold {labels} itself
        labels = choose.separator.join(self.choices)
        return _messages(choose_turns(choose), before.replace("{labels}", labels) + self.text + after, only)

    def _in_one_turn(self) -> list[str]:
        """A message that nobody has answered, and the new one after it."""
        return [*self.earlier[:-1], self.earlier[-1] + self.text]

    def answer(self, completion: Completion) -> RemoteAnswer:
        """Raises ``RemoteError`` (wrong_answer)."""
        said = completion.text.strip()
        if isinstance(self.task, GenerateTask):
            if not said or len(said) > CHARS_PER_TOKEN * self.max_tokens:
                raise RemoteError("wrong_answer")
            return GeneratedText(text=said, finish_reason=completion.finish_reason, tokens=completion.made)
        words = self.words()
        known = {name.casefold(): label for label, word in words.items() for name in (label, word)}
        found = known.get(said.strip(AROUND).casefold())
        if found is None:
            raise RemoteError("wrong_answer")
        scores = probabilities(words, completion.first_token)
        if scores is None or max(scores, key=scores.__getitem__) != found:
            return ChosenLabel(label=found)
        return LabelScores(label=found, probability=scores[found], scores=scores)


def probabilities(words: Mapping[str, str], first_token: Mapping[str, float]) -> dict[str, float] | None:
    """Each label's probability, from the log-probabilities of the answer's likeliest first tokens; their sum
    is 1. A label that none of these begins has 0. None when not given, or when labels begin alike."""
    mass = dict.fromkeys(words, 0.0)
    for token, logprob in first_token.items():
        start = token.strip().casefold()
        begun = [label for label, word in words.items() if start and word.casefold().startswith(start)]
        if len(begun) > 1:
            return None
        for label in begun:
            mass[label] += math.exp(min(0.0, logprob))
    total = math.fsum(mass.values())
    if not total > 0.0:
        return None
    return {label: share / total for label, share in mass.items()}


def _messages(turns: Sequence[Turn], user: str, also: str = "") -> list[Message]:
    messages = [Message(role=turn.role, content=turn.content) for turn in turns]
    if also:
        messages[0]["content"] += f"\n{also}"
    return [*messages, Message(role="user", content=user)]
