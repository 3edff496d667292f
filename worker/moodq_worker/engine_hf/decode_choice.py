"""Which ``Decode`` an engine's replies run on: named, or the faster one on this device."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from moodq_config.errors import ConfigError
from moodq_worker.engine_hf.decode import Decode, Request, Writer
from moodq_worker.engine_hf.decode_continuous import ContinuousDecode
from moodq_worker.engine_hf.decode_loop import DecodeLoop
from moodq_worker.engine_hf.prefixes import Prefixes

log = logging.getLogger(__name__)

#: The trial: as many requests at once, and steps that are timed after some that are not.
TRIAL_REQUESTS = 32
TRIAL_STEPS = 24
STEPS_BEFORE = 4
#: How much faster than our own loop continuous batching must be to be taken.
WORTH_CHANGING = 1.1


def make_decodes(
    wanted: str,
    model: PreTrainedModel,
    writer: Writer,
    prefixes: Prefixes,
    kv_tokens: int,
    precision: str,
) -> list[Decode]:
    """What may run the replies, the first in doubt; several are a matter for ``fastest``.

    ``auto`` is the loop on a CPU, where continuous batching was measured to be slower (docs/adr/021), and
    both on a CUDA device. Raises ``ConfigError`` when ``continuous`` is wanted and cannot be.
    """
    loop = DecodeLoop(model, writer, prefixes, kv_tokens)
    if wanted == "loop" or (wanted == "auto" and model.device.type != "cuda"):
        return [loop]
    if precision == "int8":
        # A fixed prompt's first tokens need the precise products, and pages come and go.
        raise ConfigError("MOODQ_DECODE: continuous knows no int8; use loop, or MOODQ_PRECISION=bf16")
    try:
        continuous = ContinuousDecode(model, writer, kv_tokens)
    except Exception as error:
        if wanted == "continuous":
            raise ConfigError(
                f"MOODQ_DECODE: continuous cannot run this model here ({type(error).__name__}: {error}); "
                "use loop or auto"
            ) from error
        log.warning("replies: no continuous batching here (%s: %s)", type(error).__name__, error)
        return [loop]
    return [continuous] if wanted == "continuous" else [loop, continuous]


def fastest(decodes: Sequence[Decode], request: Request) -> Decode:
    """The one that makes the most tokens a second for many of ``request``; the first unless another is
    clearly faster. One that fails is out, unless it is the only one."""
    if len(decodes) == 1:
        return decodes[0]
    speeds = {}
    for decode in decodes:
        try:
            speeds[decode.name] = _tokens_per_s(decode, request)
        except Exception as error:
            log.warning("replies: %s failed its trial", decode.name, exc_info=error)
            speeds[decode.name] = 0.0
    bar = speeds[decodes[0].name] * WORTH_CHANGING
    best = max(decodes, key=lambda decode: speeds[decode.name])
    chosen = best if speeds[best.name] >= bar else decodes[0]
    measured = ", ".join(f"{name} {speed:.0f} tokens/s" for name, speed in speeds.items())
    log.info("replies run on %s (%s)", chosen.name, measured)
    return chosen


def _tokens_per_s(decode: Decode, request: Request) -> float:
    requests: list[Request] = []
    for key in range(TRIAL_REQUESTS):
        another = replace(request, key=key, max_new_tokens=STEPS_BEFORE + TRIAL_STEPS + 1)
        if not decode.fits([*requests, another]):
            break
        requests.append(another)
    try:
        decode.join(requests)
        for _ in range(STEPS_BEFORE):
            decode.step()
        began, tokens = time.perf_counter(), 0
        for _ in range(TRIAL_STEPS):
            tokens += len(decode.step())
        return tokens / (time.perf_counter() - began)
    finally:
        decode.clear()
