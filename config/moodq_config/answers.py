"""What one task says of one item: the values of ``results`` in a result key, one form per kind of task.

A reader tells them apart by their fields; ``docs/protocol.md`` shows each.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

#: The label of a text that a task with a threshold does not decide.
UNCERTAIN = "uncertain"


class Reading(BaseModel):
    """Part of a result: a reader ignores fields that a newer worker may add."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class LabelScores(Reading):
    """The label chosen: the most probable one, or ``uncertain`` where that is below the task's threshold;
    ``probability`` is the most probable one's. ``scores`` maps every label of the task (or of the request) to
    its probability; they sum to 1."""

    label: str
    probability: float
    scores: dict[str, float]

    @classmethod
    def of(cls, scores: dict[str, float], threshold: float = 0.0) -> LabelScores:
        """What is said of a text whose labels have these probabilities."""
        best = max(scores, key=scores.__getitem__)
        label = UNCERTAIN if scores[best] < threshold else best
        return cls(label=label, probability=scores[best], scores=scores)

    @property
    def best(self) -> str:
        """The most probable label, however uncertain."""
        return max(self.scores, key=self.scores.__getitem__)

    @property
    def finite(self) -> bool:
        return math.isfinite(self.probability)


class ChosenLabel(Reading):
    """A label of which nobody said how probable it is: a remote endpoint chose it."""

    label: str


class LabelSet(Reading):
    """The labels that hold, in the task's order; perhaps none. ``scores`` maps every label of the task to its
    own probability of holding: each is judged by itself, so they do not sum to 1."""

    labels: tuple[str, ...]
    scores: dict[str, float]

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, self.scores.values()))


class Score(Reading):
    """A number on the task's scale: the mean of its values, weighted by their probabilities in ``scores``."""

    score: float
    scores: dict[str, float]

    @property
    def finite(self) -> bool:
        return math.isfinite(self.score)


class Ranking(Reading):
    """``scores`` has each document's relevance, 0 to 1, in the order they were sent; ``ranking`` has their
    numbers, from 0, the most relevant first."""

    scores: tuple[float, ...]
    ranking: tuple[int, ...]

    @property
    def finite(self) -> bool:
        return all(map(math.isfinite, self.scores))


class GeneratedText(Reading):
    """``finish_reason`` is ``stop`` (the model ended) or ``length`` (the task's token limit ended it)."""

    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int


class Extracted(Reading):
    """``data`` is JSON that the task's schema allows; ``tokens`` counts those it was written with."""

    data: Any
    tokens: int


#: What a forward pass gives, without generation.
Judgement = LabelScores | LabelSet | Score | Ranking
#: What is written token by token.
Writing = GeneratedText | Extracted
Answer = Judgement | ChosenLabel | Writing
