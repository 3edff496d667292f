"""Which optional peers can be had on this machine, and how to get the others."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

from moodq_config.errors import MoodqError
from moodq_config.settings import Settings

from .child import Child, ChildFailed
from .figures import Figures

GGUF_VARIABLE = "BENCH_GGUF"


def llama_child(settings: Settings, into: Figures, progress: Callable[[str], None]) -> Child | None:
    """llama.cpp on the file the default model was made of; None, the reason noted, when it is not here."""
    if importlib.util.find_spec("llama_cpp") is None:
        into.left_out.append(
            "llama.cpp: pip install -e '.[bench]' (compiles for some minutes, needs a C++ compiler)"
        )
        return None
    try:
        gguf = str(gguf_file(settings, progress))
        try:
            return _started(gguf, extra_buffers=True)
        except ChildFailed:
            into.left_out.append(
                "llama.cpp's kernels for rearranged weights: they crash on this machine; it ran without"
            )
            return _started(gguf, extra_buffers=False)
    except (ChildFailed, MoodqError, OSError) as error:
        into.left_out.append(f"llama.cpp: {error}; {GGUF_VARIABLE} may name a GGUF file of the same model")
        return None


def _started(gguf: str, *, extra_buffers: bool) -> Child:
    child = Child("llama:LlamaModel", gguf=gguf, extra_buffers=extra_buffers)
    child.call("warm_up")
    return child


def gguf_file(settings: Settings, progress: Callable[[str], None]) -> Path:
    """The file ``BENCH_GGUF`` names, else the default model's, fetched once into the data folder."""
    named = os.environ.get(GGUF_VARIABLE)
    if named:
        return Path(named)
    from moodq_worker.model_store import fetch_gguf, sources

    source = next(source for source in sources().values() if source.parts)
    target = settings.data_dir / "bench" / f"{source.name}.gguf"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        fetch_gguf(source, target, progress)
    return target
