"""The engine on a device that is not the CPU: every tensor where it is needed (``pretend_cuda``)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.pretend_cuda import CUDA, pretend_cuda
from moodq_config.tasks import LabelTask, TaskSet, load_tasks
from moodq_worker.engine import Generation
from moodq_worker.engine_hf import HfEngine, load_engine

TEXTS = ["好", "The parcel came late.", "手机碎了，客服也不理我。"]


def load(folder: Path, device: str, decode: str = "loop") -> HfEngine:
    engine = load_engine(
        folder, model_id="tiny", revision="", licence="", device=device, precision="fp32", threads=1,
        decode=decode,
    )  # fmt: skip
    engine.use_tasks(tasks())
    engine.warm_up()
    return engine


def tasks() -> TaskSet:
    """The shipped ones, whose label words are several of the tiny model's tokens, and one that asks after the
    text for words of one token."""
    shipped = load_tasks()
    prompt = {"system": "a or b.", "ask": "Mood:", "words": {"a": "A", "b": "B"}}
    mood = {"name": "mood", "kind": "label", "layout": "text_first", "labels": ["a", "b"]}
    return TaskSet(
        {**shipped, "mood": LabelTask.model_validate({**mood, "prompt": {"zh": prompt, "en": prompt}})}
    )


def everything(engine: HfEngine) -> tuple[object, list[str]]:
    texts = engine.encode(TEXTS)
    labels = [engine.label([name], "zh", texts) for name in ("sentiment", "mood")]
    written = [""] * len(texts)
    for key, tokens in enumerate(texts):
        engine.admit([Generation(key, "reply", "zh", "negative", tokens)])
        for event in engine.step():
            written[event.key] += event.text
    while engine.running:
        for event in engine.step():
            written[event.key] += event.text
    return labels, written


def test_the_pretended_device_finds_a_tensor_left_behind() -> None:
    with pretend_cuda():
        there = torch.arange(3, device=CUDA)
        assert there.device == CUDA
        assert (there + there).tolist() == [0, 2, 4]
        with pytest.raises(RuntimeError, match="same device"):
            there + torch.arange(3)


@pytest.mark.parametrize("decode", ["loop", "continuous"])
def test_every_path_of_the_engine_runs_on_another_device(tiny_folder: Path, decode: str) -> None:
    expected = everything(load(tiny_folder, "cpu"))
    with pretend_cuda():
        engine = load(tiny_folder, "cuda", decode=decode)
        assert engine.info.device == str(CUDA)
        found = everything(engine)
        assert engine.best_batch_tokens() >= 256
    assert found[1] == expected[1]
    for ours, theirs in zip(found[0], expected[0], strict=True):  # type: ignore[call-overload]
        for [one], [other] in zip(ours, theirs, strict=True):
            assert one.scores == pytest.approx(other.scores, abs=1e-4)
