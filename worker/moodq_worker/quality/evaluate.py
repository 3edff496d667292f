"""``moodq eval``: every way of labelling on the same texts, one engine after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from moodq_config.contracts import ModelRef
from moodq_config.settings import Settings
from moodq_config.tasks import LANGS, LabelTask, TaskSet
from moodq_worker.quality import measures
from moodq_worker.quality.examples import Example
from moodq_worker.quality.predict import Predictions, predict
from moodq_worker.wiring import build_engine

ALL = "all"


@dataclass(frozen=True, slots=True)
class Way:
    """One way of labelling: what the settings and the task file make of a text."""

    name: str
    settings: Settings
    tasks: TaskSet
    task: LabelTask


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Predictions by language and of ``all``; a language without texts is left out."""

    way: str
    model: ModelRef
    by_lang: dict[str, Predictions]


def evaluate(
    ways: Sequence[Way], examples: Sequence[Example], done: Callable[[int], None]
) -> Iterator[Evaluated]:
    """Each way in turn; ``done`` hears of texts labelled, over all ways. The labels of all ways must be the
    same, so that their figures can be compared."""
    langs = np.array([example.lang for example in examples])
    for way in ways:
        engine = build_engine(way.settings)
        engine.use_tasks(way.tasks)
        engine.warm_up()
        budget = way.settings.batch_tokens or engine.best_batch_tokens()
        found = predict(engine, way.task, examples, budget, done)
        parts: dict[str, Predictions] = {
            lang: found.only(langs == lang) for lang in LANGS if (langs == lang).any()
        }
        yield Evaluated(way.name, engine.info.ref, parts | {ALL: found})
        del engine  # before the next is loaded


def as_json(evaluated: Sequence[Evaluated]) -> dict[str, Any]:
    """All figures; ``difference`` is to the first way, in pairs."""
    first = evaluated[0]
    return {
        "ways": [
            {
                "way": one.way,
                "model": one.model.model_dump(),
                "parts": {
                    part: _figures(found)
                    | (
                        {}
                        if one is first
                        else {
                            "difference": {
                                name: measures.difference(first.by_lang[part], found, figure).rounded()
                                for name, figure in measures.FIGURES.items()
                            }
                        }
                    )
                    for part, found in one.by_lang.items()
                },
            }
            for one in evaluated
        ]
    }


def _figures(found: Predictions) -> dict[str, Any]:
    return {
        "texts": len(found.truth),
        **measures.told(found),
        "f1": {label: round(score, 4) for label, score in measures.f1_by_label(found).items()},
        "labels": list(found.labels),
        "confusion": measures.confusion(found).tolist(),
        "reliability": [
            {"from": one.low, "to": one.high, "texts": one.count,
             "confidence": round(one.confidence, 4), "accuracy": round(one.accuracy, 4)}
            for one in measures.reliability(found)
        ],
        "at_coverage": [
            {"coverage": one.coverage, "threshold": round(one.threshold, 4),
             "accuracy": round(one.accuracy, 4)}
            for one in measures.at_coverage(found)
        ],
        "items_per_s": round(len(found.truth) / found.seconds, 1) if found.seconds else None,
    }  # fmt: skip
