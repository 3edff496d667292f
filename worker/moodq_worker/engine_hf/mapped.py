"""Weights left in their file: a table of which single rows are read needs no memory of its own.

The embedding is looked up row by row, and the label words' rows of the output matrix are read once; both
matrices together are two fifths of a 0.5B model. Mapped, the system's page cache holds what is touched.
"""

from __future__ import annotations

import json
import mmap
from pathlib import Path

import torch
from transformers import PreTrainedModel

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
#: Of the element types of a safetensors file, those weights come in.
DTYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


class MappedWeights:
    """The safetensors files in ``folder``, each mapped when a tensor of it is first asked for."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[Path, mmap.mmap] = {}

    def tensor(self, name: str) -> torch.Tensor | None:
        """Tensor ``name``, mapped, not to be written to; None where the files hold none of that name."""
        index = self._folder / INDEX
        shard = json.loads(index.read_text("utf-8"))["weight_map"].get(name) if index.is_file() else WHOLE
        if shard is None or not (self._folder / shard).is_file():
            return None
        file = self._file(self._folder / shard)
        begin = 8 + int.from_bytes(file[:8], "little")
        entry = json.loads(file[8:begin]).get(name)
        if entry is None or (dtype := DTYPES.get(entry["dtype"])) is None:
            return None
        start, end = entry["data_offsets"]
        count = (end - start) // dtype.itemsize
        return torch.frombuffer(file, dtype=dtype, count=count, offset=begin + start).view(entry["shape"])

    def forget(self) -> None:
        """Let go of the pages that were touched. The system has mapped a row's neighbours with it, 64 KB a
        row; what is wanted again comes from the page cache within a microsecond."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for file in self._files.values():
                file.madvise(mmap.MADV_DONTNEED)

    def _file(self, path: Path) -> mmap.mmap:
        if path not in self._files:
            with path.open("rb") as stream:
                # A private copy that nobody writes to: torch takes no buffer that is read-only.
                self._files[path] = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
        return self._files[path]


def map_embedding(model: PreTrainedModel, weights: MappedWeights) -> bool:
    """Let the input embedding of ``model`` (on CPU) read from the file; False when it is not there in the
    model's precision."""
    table = model.get_input_embeddings()
    name = next((name for name, module in model.named_modules() if module is table), None)
    mapped = weights.tensor(f"{name}.weight")
    if mapped is None or mapped.dtype != table.weight.dtype or mapped.shape != table.weight.shape:
        return False
    for parameter in model.parameters():
        # What was loaded may still be a view of the whole mapped file, and keep it in memory.
        parameter.data = parameter.data.clone() if parameter is not table.weight else mapped
    return True


def output_matrix(model: PreTrainedModel, weights: MappedWeights) -> torch.Tensor:
    """The output matrix, ``[vocabulary, hidden]``, to read rows of: from the file where it has one."""
    head = model.get_output_embeddings()
    if head.weight.device.type == "cpu":
        for table in (head, model.get_input_embeddings()):
            name = next((name for name, module in model.named_modules() if module is table), None)
            mapped = weights.tensor(f"{name}.weight")
            if mapped is not None and mapped.shape == head.weight.shape:
                return mapped
            if not model.config.tie_word_embeddings:
                break
    matrix: torch.Tensor = head.weight.data
    return matrix
