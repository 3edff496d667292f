"""``moodq tune``: which prompt of several, and what calibration of it, loses least on labelled texts.

The model runs once over the texts for every prompt; what it said is kept as log-odds, and temperature and
bias are fitted to them (``calibration``). Every figure is of texts that the fit has not seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from moodq_config.tasks import LANGS, LabelPrompt, LabelTask, Lang, TaskSet
from moodq_worker.engine import Engine
from moodq_worker.quality.calibration import FOLDS, Calibration, cross_fitted, fit, log_odds
from moodq_worker.quality.examples import Example
from moodq_worker.quality.measures import Interval, difference, log_loss
from moodq_worker.quality.predict import Predictions, predict


@dataclass(frozen=True, slots=True)
class Candidate:
    """A prompt to try: what one task file makes of the task. The first one is in force."""

    name: str
    tasks: TaskSet
    task: LabelTask


@dataclass(frozen=True, slots=True)
class Tried:
    """One prompt in one language. ``as_is`` is labelled with the calibration of its file, ``fitted`` with one
    fitted to the other texts; ``calibration`` is that of all texts. ``to_first`` is the log loss of
    ``fitted`` less that of the prompt in force as it is: below 0 is better."""

    candidate: Candidate
    lang: Lang
    as_is: Predictions
    fitted: Predictions
    calibration: Calibration
    to_first: Interval

    @property
    def better(self) -> bool:
        """Whether the fit is worth its figures: on other texts it loses no more than the file's own."""
        return log_loss(self.fitted) <= log_loss(self.as_is)

    @property
    def best(self) -> Predictions:
        return self.fitted if self.better else self.as_is

    @property
    def prompt(self) -> LabelPrompt:
        """The candidate's prompt, calibrated."""
        prompt, calibration = self.candidate.task.prompt[self.lang], self.calibration
        if not self.better:
            return prompt
        bias = {
            label: one for label, one in zip(self.candidate.task.labels, calibration.bias, strict=True) if one
        }
        return prompt.model_copy(update={"bias": bias, "temperature": calibration.temperature})


def too_few(examples: Sequence[Example], task: LabelTask, lang: Lang) -> str | None:
    """Why nothing can be tuned in this language; None where it can."""
    counts = dict.fromkeys(task.labels, 0)
    for example in examples:
        if example.lang == lang:
            counts[example.label] += 1
    label = min(counts, key=counts.__getitem__)
    return None if counts[label] >= FOLDS else f"{counts[label]} texts of {label}, {FOLDS} are needed"


def tried(
    engine: Engine,
    candidates: Sequence[Candidate],
    examples: Sequence[Example],
    budget: int,
    done: Callable[[int], None] = lambda count: None,
) -> Iterator[Tried]:
    """Every candidate in every language of ``examples``, each of which must have enough of them. ``done``
    hears of texts labelled, over all candidates."""
    langs = np.array([example.lang for example in examples])
    in_force: dict[Lang, Predictions] = {}
    for candidate in candidates:
        plain = uncalibrated(candidate.task)
        engine.use_tasks(TaskSet({**candidate.tasks, plain.name: plain}))
        said = predict(engine, plain, examples, budget, done)
        for lang in LANGS:
            if not (here := langs == lang).any():
                continue
            found = said.only(here)
            odds = log_odds(found.probabilities)
            as_is = replace(found, probabilities=calibration_of(candidate.task, lang)(odds))
            first = in_force.setdefault(lang, as_is)
            fitted = replace(found, probabilities=cross_fitted(odds, found.truth))
            to_first = difference(first, fitted, log_loss)
            yield Tried(candidate, lang, as_is, fitted, fit(odds, found.truth), to_first)


def uncalibrated(task: LabelTask) -> LabelTask:
    """The task with what the model says of it, as it says it."""
    bare = {
        lang: prompt.model_copy(update={"bias": {}, "temperature": 1.0})
        for lang, prompt in task.prompt.items()
    }
    return task.model_copy(update={"prompt": bare, "threshold": 0.0})


def calibration_of(task: LabelTask, lang: Lang) -> Calibration:
    prompt = task.prompt[lang]
    return Calibration(tuple(prompt.bias.get(label, 0.0) for label in task.labels), prompt.temperature)


def winner(found: Sequence[Tried]) -> tuple[LabelTask, dict[Lang, Tried]]:
    """The task to write, and what won in each language.

    The prompt in force stays unless another loses less, and by more than chance. Prompts of one layout are
    chosen by language; where the candidates' layouts differ, so that they cannot be mixed, one candidate is
    chosen for all languages, by the mean of its losses.
    """
    candidates = list(dict.fromkeys(one.candidate.name for one in found))
    in_force = found[0].candidate
    langs = list(dict.fromkeys(one.lang for one in found))
    at = {(one.candidate.name, one.lang): one for one in found}
    if len({one.candidate.task.layout for one in found}) == 1:
        chosen = {lang: _least([at[name, lang] for name in candidates]) for lang in langs}
        base = in_force.task
    else:
        rows = [[at[name, lang] for lang in langs] for name in candidates]
        best = min(rows, key=_mean_loss)
        kept = best if all(_clear(one, first) for one, first in zip(best, rows[0], strict=True)) else rows[0]
        chosen = dict(zip(langs, kept, strict=True))
        base = kept[0].candidate.task
    prompts = base.prompt | {lang: one.prompt for lang, one in chosen.items()}
    return base.model_copy(update={"prompt": prompts}), chosen


def _least(rows: Sequence[Tried]) -> Tried:
    best = min(rows, key=lambda one: log_loss(one.best))
    return best if _clear(best, rows[0]) else rows[0]


def _clear(one: Tried, first: Tried) -> bool:
    """Whether ``one`` loses less than ``first`` by more than chance."""
    return difference(first.best, one.best, log_loss).high < 0


def _mean_loss(row: Sequence[Tried]) -> float:
    return float(np.mean([log_loss(one.best) for one in row]))
