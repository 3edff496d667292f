"""A text the real model cannot bear: the loop finds it among others, labels and replies, and it fails alone.

The model is made to fail where it would: its embedding raises, or gives NaN, for texts with one rare token.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from moodq_config.contracts import RequestItem
from moodq_config.tasks import TaskSet, load_tasks
from moodq_worker.engine_hf.engine import HfEngine, load_engine
from moodq_worker.items import Clock, Item, Job
from moodq_worker.loop import Loop
from moodq_worker.metrics import Metrics
from moodq_worker.model_store import ModelFiles

pytestmark = pytest.mark.real_model

POISON = "龘"
TEXTS = ["今天真好！", "My order is late.", f"{POISON} 坏了", "谢谢你们", "Nobody answers.", "很满意"]
WAIT_S = 120.0
Spoil = Callable[[str], None]


@pytest.fixture(scope="module")
def tasks() -> TaskSet:
    """The shipped ones, with short replies."""
    shipped = load_tasks()
    return TaskSet({**shipped, "reply": shipped["reply"].model_copy(update={"max_new_tokens": 6})})


@pytest.fixture(scope="module")
def engine(model_files: ModelFiles, tasks: TaskSet) -> HfEngine:
    loaded = load_engine(
        model_files.path,
        model_id=model_files.id,
        revision=model_files.revision,
        licence=model_files.licence,
        device="cpu",
        precision="fp32",
        threads=0,
    )
    loaded.use_tasks(tasks)
    return loaded


@pytest.fixture
def spoil(engine: HfEngine) -> Iterator[Spoil]:
    """Makes the model fail on the poison: ``raise``, ``oom`` or ``nan``."""
    poison = set(engine.encode([POISON])[0])
    embedding: Any = engine._model.get_input_embeddings()
    handles: list[Any] = []

    def rows(ids: torch.Tensor) -> list[int]:
        return [row for row, line in enumerate(ids.tolist()) if poison <= set(line)]

    def act(how: str) -> None:
        def hook(_: Any, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            bad = rows(inputs[0])
            if bad and how == "raise":
                raise RuntimeError("an index is out of range")
            if bad and how == "oom":
                raise torch.OutOfMemoryError("no memory left")
            if bad:
                output = output.clone()
                output[bad] = torch.nan
            return output

        handles.append(embedding.register_forward_hook(hook))

    yield act
    for handle in handles:
        handle.remove()


class Outcomes:
    """Takes what the loop hands to delivery, until it has all of it."""

    def __init__(self, count: int) -> None:
        self.items: list[Item] = []
        self.all_here = threading.Event()
        self._count = count

    def deliver(self, items: Sequence[Item]) -> None:
        self.items += items
        if len(self.items) == self._count:
            self.all_here.set()

    def publish(self, *_: object) -> None:
        """Nobody follows."""


def outcomes(engine: HfEngine, tasks: TaskSet, names: tuple[str, ...]) -> dict[str, Item]:
    """What becomes of the texts, sent in one job, by text."""
    loop = Loop(
        engine,
        tasks,
        Metrics(),
        queues=("interactive",),
        batch_tokens=512,
        bulk_share=0.25,
        weights={},
        max_replies=8,
        max_wait_s=0.0,
        max_pass_s=60.0,
    )
    claim: Any = SimpleNamespace(
        queue=SimpleNamespace(name="interactive"),
        execution=SimpleNamespace(id="e"),
        job=SimpleNamespace(id="j"),
    )
    job = Job(claim)
    for number, (text, tokens) in enumerate(zip(TEXTS, engine.encode(TEXTS), strict=True)):
        request = RequestItem(id=f"i{number}", text=text, tasks=names)
        item = Item(job, request.id, "interactive", Clock(0.0, 0.0), request, lang="zh", tokens=tokens)
        item.plan(tasks)
        job.items.append(item)
    job.open = len(job.items)
    taken = Outcomes(len(TEXTS))
    loop.delivery = taken  # type: ignore[assignment]
    loop.accept(job)
    thread = threading.Thread(target=loop.run)
    thread.start()
    try:
        assert taken.all_here.wait(WAIT_S)
    finally:
        loop.drain(0.0)
        thread.join()
    return {item.text: item for item in taken.items}


@pytest.mark.parametrize("how", ["raise", "oom", "nan"])
@pytest.mark.parametrize("names", [("sentiment",), ("reply",)])
def test_a_text_the_model_cannot_bear_fails_alone(
    engine: HfEngine, tasks: TaskSet, spoil: Spoil, how: str, names: tuple[str, ...]
) -> None:
    sound = outcomes(engine, tasks, names)
    assert not [text for text, item in sound.items() if item.error]
    spoil(how)
    found = outcomes(engine, tasks, names)
    assert [text for text, item in found.items() if item.error] == [TEXTS[2]]
    assert str(found[TEXTS[2]].error).startswith("engine_failed: ")
    for text in set(TEXTS) - {TEXTS[2]}:
        for name, answer in sound[text].results.items():
            if name == "sentiment":
                assert found[text].results[name].label == answer.label  # type: ignore[union-attr]
            else:
                assert found[text].results[name].text  # type: ignore[union-attr]
    assert engine.running == 0


def test_a_pass_over_its_time_is_left_between_two_layers(engine: HfEngine, tasks: TaskSet) -> None:
    calls = 0

    def give_up() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise TimeoutError

    tokens = engine.encode(TEXTS)
    before = engine.label(["sentiment"], "zh", tokens)
    engine.between_layers(give_up)
    with pytest.raises(TimeoutError):
        engine.label(["sentiment"], "zh", tokens)
    after = engine.label(["sentiment"], "zh", tokens)
    assert after == before, "the prompt's cache is as it was"
