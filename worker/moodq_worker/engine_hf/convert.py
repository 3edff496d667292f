"""Turn a GGUF file into safetensors and tokenizer files, once: loading a GGUF takes a minute, these a second.

Run as a process of its own (``python -m moodq_worker.engine_hf.convert GGUF FOLDER``), so that the memory the
conversion needs is given back.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.utils import logging as transformers_logging


def convert(gguf: Path, folder: Path) -> None:
    """Write ``folder`` with bf16 weights, config and tokenizer of ``gguf``."""
    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    tokenizer.save_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        trust_remote_code=False,
        quantization_config=GgufConfig(
            dequantize=True
        ),  # otherwise the weights stay packed and cannot be saved
    )
    model.save_pretrained(folder)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text("utf-8"))
    config.pop("quantization_config", None)
    config_file.write_text(json.dumps(config, indent=2), "utf-8")


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
