"""Ways to tell sentiment that ``quality`` compares, each as the probability of *positive* for every text.

A way without probabilities answers 1, 0, or a half where it says nothing.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from moodq_config.settings import Settings
from moodq_config.tasks import LANGS, LabelTask, Lang, load_tasks
from moodq_worker.quality.calibration import Calibration, log_odds
from moodq_worker.quality.examples import Example
from moodq_worker.quality.predict import predict
from moodq_worker.quality.tune import calibration_of
from moodq_worker.wiring import build_engine

from .article import ArticleWay
from .texts import LABELS, Labelled

Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Told:
    """``positive`` is the probability of each text; with ``calibrated`` False it stands for a bare label."""

    way: str
    positive: Numbers
    seconds: float
    calibrated: bool = True


class Moodq:
    """The shipped task on the engine alone, in the batches of a worker."""

    name = "moodq"

    def __init__(self, settings: Settings) -> None:
        tasks = load_tasks()
        self._task: LabelTask = tasks.label_task("sentiment")
        if self._task.labels != LABELS:
            raise ValueError(f"sentiment has the labels {self._task.labels}, not {LABELS}")
        self._engine = build_engine(settings)
        self._engine.use_tasks(tasks)
        self._engine.warm_up([self._task.name])
        self._budget = settings.batch_tokens or self._engine.best_batch_tokens()
        self.ref = self._engine.info.ref

    def run(self, texts: Sequence[Labelled]) -> list[Told]:
        """As shipped, and as the model says it: what the task's calibration made of it is undone."""
        examples = [Example(one.text, one.label, one.lang) for one in texts]
        found = predict(self._engine, self._task, examples, self._budget)
        shipped = Told(self.name, found.probabilities[:, 0], found.seconds)
        bare = found.probabilities[:, 0].copy()
        langs = np.array([one.lang for one in texts])
        for lang in LANGS:
            here = langs == lang
            bare[here] = _undone(found.probabilities[here], calibration_of(self._task, lang))
        return [shipped, replace(shipped, way="moodq, not calibrated", positive=bare)]


class Article:
    """The question that ``sentiment`` asks, answered by ``generate``, one text at a time."""

    name = "the article's way"

    def __init__(self, model: str, precision: str) -> None:
        self._way = ArticleWay(model, precision)

    def run(self, texts: Sequence[Labelled]) -> list[Told]:
        found = self._way.run(texts)
        votes = {"positive": 1.0, "negative": 0.0, None: 0.5}
        return [Told(self.name, np.array([votes[one] for one in found.labels]), found.wall_s, False)]

    def close(self) -> None:
        self._way.close()


class Peer:
    """A function of one text, made by a package, that knows one language."""

    def __init__(self, name: str, lang: Lang, judge: Callable[[str], float], calibrated: bool) -> None:
        self.name, self.lang = name, lang
        self._judge, self._calibrated = judge, calibrated

    def run(self, texts: Sequence[Labelled]) -> list[Told]:
        self._judge(texts[0].text)  # some read their dictionary with the first text
        began = time.perf_counter()
        positive = np.array([self._judge(one.text) for one in texts])
        return [Told(self.name, positive, time.perf_counter() - began, self._calibrated)]


def peers() -> tuple[list[Peer], list[str]]:
    """Those that are installed, and a sentence on each that is not."""
    found, missing = [], []
    for package, make in (("vaderSentiment", _vader), ("snownlp", _snownlp), ("cnsenti", _cnsenti)):
        try:
            found.append(make())
        except ImportError as error:
            missing.append(f"{package} cannot be used: {error}")
    return found, missing


def versions() -> dict[str, str]:
    """Of the peers' packages."""
    names = ("vaderSentiment", "snownlp", "cnsenti")
    here = {found.metadata["Name"].lower(): found.version for found in importlib.metadata.distributions()}
    return {name: here[name.lower()] for name in names if name.lower() in here}


def _vader() -> Peer:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    analyser = SentimentIntensityAnalyzer()
    return Peer("VADER", "en", lambda text: _vote(analyser.polarity_scores(text)["compound"]), False)


def _snownlp() -> Peer:
    from snownlp import SnowNLP

    return Peer("SnowNLP", "zh", lambda text: float(SnowNLP(text).sentiments), True)


def _cnsenti() -> Peer:
    from cnsenti import Sentiment

    lexicon = Sentiment()

    def judge(text: str) -> float:
        found = lexicon.sentiment_calculate(text)
        return _vote(float(found["pos"]) - float(found["neg"]))

    return Peer("cnsenti", "zh", judge, False)


def _vote(score: float) -> float:
    return 0.5 if score == 0 else float(score > 0)


def _undone(probabilities: Numbers, calibration: Calibration) -> Numbers:
    """The probability of the first label before ``calibration``."""
    odds = log_odds(probabilities) * calibration.temperature - np.array(calibration.bias)
    return Calibration.none(odds.shape[1])(odds)[:, 0]
