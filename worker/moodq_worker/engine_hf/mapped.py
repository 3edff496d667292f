"""Weights left in their file: a table of which single rows are read needs no memory of its own.

The embedding is looked up row by row, and the label words' rows of the output matrix are read once; both
matrices together are two fifths of a 0.5B model. Mapped, the system's page cache holds what is touched.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import PreTrainedModel

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"


def mapped_tensor(folder: Path, name: str) -> torch.Tensor | None:
    """Tensor ``name`` of the model in ``folder``, mapped; None where the files hold none of that name."""
    index = folder / INDEX
    shard = json.loads(index.read_text("utf-8"))["weight_map"].get(name) if index.is_file() else WHOLE
    if shard is None or not (folder / shard).is_file():
        return None
    with safe_open(folder / shard, framework="pt") as tensors:
        return tensors.get_tensor(name) if name in tensors.keys() else None  # noqa: SIM118 - not a dict


def map_embedding(model: PreTrainedModel, folder: Path) -> bool:
    """Let the input embedding of ``model`` (on CPU) read from the file; False when it is not there in the
    model's precision."""
    table = model.get_input_embeddings()
    name = next((name for name, module in model.named_modules() if module is table), None)
    mapped = mapped_tensor(folder, f"{name}.weight")
    if mapped is None or mapped.dtype != table.weight.dtype or mapped.shape != table.weight.shape:
        return False
    for parameter in model.parameters():
        # What was loaded may still be a view of the whole mapped file, and keep it in memory.
        parameter.data = parameter.data.clone() if parameter is not table.weight else mapped
    return True


def output_matrix(model: PreTrainedModel, folder: Path) -> torch.Tensor:
    """The output matrix, ``[vocabulary, hidden]``, to read rows of: from the file where it has one."""
    head = model.get_output_embeddings()
    if head.weight.device.type == "cpu":
        for table in (head, model.get_input_embeddings()):
            name = next((name for name, module in model.named_modules() if module is table), None)
            mapped = mapped_tensor(folder, f"{name}.weight")
            if mapped is not None and mapped.shape == head.weight.shape:
                return mapped
            if not model.config.tie_word_embeddings:
                break
    matrix: torch.Tensor = head.weight.data
    return matrix
