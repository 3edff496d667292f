"""Which of the two runs replies."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from moodq_config.errors import ConfigError
from moodq_config.tasks import load_tasks
from moodq_worker.engine import DecodeEvent, Generation
from moodq_worker.engine_hf import decode_choice, load_engine
from moodq_worker.engine_hf.decode import Request, Writer
from moodq_worker.engine_hf.decode_choice import fastest, make_decodes
from moodq_worker.engine_hf.decode_loop import DecodeLoop
from moodq_worker.engine_hf.prefixes import Prefixes

PREFIX = tuple(range(40))


class SlowLoop(DecodeLoop):
    name = "slow"

    def step(self) -> list[DecodeEvent]:
        time.sleep(0.05)
        return super().step()


class BrokenLoop(DecodeLoop):
    name = "broken"

    def step(self) -> list[DecodeEvent]:
        raise RuntimeError("no kernel image is available")


class _Bytes:
    def decode(self, tokens: list[int], **_: Any) -> str:
        return "x" * len(tokens)


@pytest.fixture
def model(tiny_folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny_folder).eval()


def made(model: Any, *kinds: type[DecodeLoop]) -> list[DecodeLoop]:
    return [kind(model, Writer(_Bytes(), frozenset()), Prefixes(model, 1_024), 4_096) for kind in kinds]


@pytest.mark.parametrize(
    ("kinds", "name"),
    [
        ((SlowLoop, DecodeLoop), "loop"),
        ((DecodeLoop, SlowLoop), "loop"),
        ((DecodeLoop, BrokenLoop), "loop"),
    ],
)
def test_the_one_that_is_faster_and_works_is_taken(
    model: Any, kinds: tuple[type[DecodeLoop], ...], name: str
) -> None:
    decodes = made(model, *kinds)
    assert fastest(decodes, Request(-1, PREFIX, (1, 2, 3), 50)).name == name
    assert not any(map(len, decodes))


@pytest.mark.parametrize(("measured", "name"), [(105.0, "loop"), (115.0, "slow")])
def test_another_must_be_clearly_faster(
    model: Any, monkeypatch: pytest.MonkeyPatch, measured: float, name: str
) -> None:
    speeds = {"loop": 100.0, "slow": measured}
    monkeypatch.setattr(decode_choice, "_tokens_per_s", lambda decode, _: speeds[decode.name])
    assert fastest(made(model, DecodeLoop, SlowLoop), Request(-1, PREFIX, (1,), 50)).name == name


@pytest.mark.parametrize(
    ("wanted", "names"), [("auto", ["loop"]), ("loop", ["loop"]), ("continuous", ["continuous"])]
)
def test_on_a_cpu_auto_is_the_loop(model: Any, wanted: str, names: list[str]) -> None:
    decodes = make_decodes(
        wanted, model, Writer(_Bytes(), frozenset({0})), Prefixes(model, 1_024), 1_024, "fp32"
    )
    assert [decode.name for decode in decodes] == names


def test_continuous_batching_in_int8_is_refused(model: Any) -> None:
    with pytest.raises(ConfigError, match="MOODQ_DECODE: continuous knows no int8"):
        make_decodes(
            "continuous", model, Writer(_Bytes(), frozenset({0})), Prefixes(model, 1_024), 1_024, "int8"
        )


def test_a_model_that_the_library_cannot_batch_is_refused_with_the_reason(model: Any) -> None:
    model.config.layer_types = ["chunked_attention", "full_attention"]
    with pytest.raises(ConfigError, match="use loop or auto"):
        make_decodes(
            "continuous", model, Writer(_Bytes(), frozenset({0})), Prefixes(model, 1_024), 1_024, "fp32"
        )


def test_an_engine_writes_the_same_by_either(tiny_folder: Path) -> None:
    written = []
    for decode in ("loop", "continuous"):
        engine = load_engine(
            tiny_folder, model_id="tiny", revision="", licence="", device="cpu", precision="fp32",
            threads=1, decode=decode,
        )  # fmt: skip
        engine.use_tasks(load_tasks())
        engine.warm_up()
        assert engine.running == 0
        tokens = engine.encode(["等了两个小时", "broken", "谢谢"])
        generations = [Generation(key, "reply", "zh", "negative", one) for key, one in enumerate(tokens)]
        assert engine.fits(generations)
        engine.admit(generations)
        engine.cancel(1)
        text: dict[int, str] = {}
        while engine.running:
            for event in engine.step():
                text[event.key] = text.get(event.key, "") + event.text
        written.append(text)
    assert written[0] == written[1]
    assert set(written[0]) == {0, 2}
