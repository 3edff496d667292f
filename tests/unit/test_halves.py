"""A batch that fails runs again in halves, with the failed pass's memory given back first."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from moodq_config.answers import Judgement, LabelScores
from moodq_config.tasks import Lang, TaskSet, load_tasks
from moodq_worker.engine import Generation
from moodq_worker.engine_fake import FakeEngine
from moodq_worker.items import Clock, Item, Job
from moodq_worker.labels import LabelStage
from moodq_worker.metrics import Metrics
from moodq_worker.replies import ReplyStage
from moodq_worker.time_limit import PassTimer


class Activations:
    """Stands for what a forward pass has in a device's memory."""


class FullEngine(FakeEngine):
    """Holds one text in its memory; an error keeps its frames, and they keep ``activations``."""

    def __init__(self) -> None:
        super().__init__()
        self.use_tasks(load_tasks())
        self.left: list[weakref.ref[Activations]] = []

    def _compute(self, texts: int) -> None:
        assert not any(left() for left in self.left), "an earlier pass still holds its memory"
        activations = Activations()
        self.left.append(weakref.ref(activations))
        if texts > 1:
            raise MemoryError(f"{activations} of {texts} texts")

    def label(
        self,
        tasks: Sequence[str],
        lang: Lang,
        texts: Sequence[Sequence[int]],
        choices: Sequence[str] = (),
        *,
        of: TaskSet | None = None,
    ) -> list[list[Judgement]]:
        self._compute(len(texts))
        return super().label(tasks, lang, texts, choices, of=of)

    def admit(self, generations: Sequence[Generation]) -> None:
        self._compute(len(generations))
        super().admit(generations)


def items(engine: FakeEngine) -> list[Item]:
    claim: Any = SimpleNamespace()  # nobody asks who claimed them
    texts = engine.encode(["a", "b", "c", "d", "e"])
    job, tasks = Job(claim), load_tasks()
    return [
        Item(job, str(number), "interactive", Clock(0.0, 0.0), tasks=tasks, tokens=tokens)
        for number, tokens in enumerate(texts)
    ]


@pytest.fixture
def failures() -> list[Item]:
    return []


@pytest.fixture
def fail(failures: list[Item]) -> Callable[[Item, Exception], None]:
    return lambda item, _: failures.append(item)


def test_labels(failures: list[Item], fail: Callable[[Item, Exception], None]) -> None:
    engine, done = FullEngine(), list[Item]()
    stage = LabelStage(
        engine,
        Metrics(),
        queues=["interactive"],
        batch_tokens=1_000,
        share=0.25,
        weights={},
        timer=PassTimer(60.0),
        next_stage=done.append,
        failed=fail,
    )
    for item in items(engine):
        item.labels_todo = ["sentiment"]
        stage.add(item)
    stage.run(stage.next_batch(started_only=False))
    assert not failures
    assert all("sentiment" in item.scores for item in done)
    assert len(done) == 5


def test_replies(failures: list[Item], fail: Callable[[Item, Exception], None]) -> None:
    engine = FullEngine()
    stage = ReplyStage(
        engine,
        Metrics(),
        queues=["interactive"],
        share=0.25,
        weights={},
        prefill_tokens=1_000,
        max_replies=32,
        max_reply_s=60.0,
        timer=PassTimer(60.0),
        next_stage=lambda _: None,
        failed=fail,
        publish=lambda *_: None,
    )
    for item in items(engine):
        item.generates_todo = ["reply"]
        item.scores["sentiment"] = LabelScores(label="negative", probability=1.0, scores={"negative": 1.0})
        stage.add(item)
    stage.turn(started_only=False)
    assert not failures
    assert engine.running == 5
