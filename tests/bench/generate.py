"""Transformers' own ways to write many replies at once: a plain padded batch, and continuous batching."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any


class GenerateModel:
    """Lives in a child process, bf16, greedy, on moodq's device. ``ways``: padded, continuous."""

    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM
        from transformers.utils import logging

        from moodq_worker.cores import usable_cores
        from moodq_worker.engine_hf.hardware import choose_device

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        torch.set_num_threads(usable_cores())
        self._torch = torch
        loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16, local_files_only=True)
        self._device = choose_device("auto")
        self._model: Any = loaded.to(self._device).eval()

    def padded(self, prompts: Sequence[Sequence[int]], stop: list[int], limit: int) -> tuple[int, float]:
        """(tokens made, seconds) of one left-padded batch; a row that has ended runs on as padding."""
        torch = self._torch
        width = max(map(len, prompts))
        ids = torch.full((len(prompts), width), stop[0])
        mask = torch.zeros(len(prompts), width, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        began = time.perf_counter()
        with torch.inference_mode():
            made = self._model.generate(
                ids.to(self._device), attention_mask=mask.to(self._device), max_new_tokens=limit,
                do_sample=False, eos_token_id=stop, pad_token_id=stop[0],
                temperature=None, top_p=None, top_k=None,
            )[:, width:]  # fmt: skip
        taken = time.perf_counter() - began
        ended = [next((i for i, token in enumerate(row) if token in stop), len(row)) for row in made.tolist()]
        return sum(ended), taken

    def continuous(self, prompts: list[list[int]], stop: list[int], limit: int) -> tuple[int, float]:
        """The same through ``generate_batch``."""
        from transformers import GenerationConfig

        config = GenerationConfig(
            max_new_tokens=limit, do_sample=False, eos_token_id=stop[0], pad_token_id=stop[0]
        )
        began = time.perf_counter()
        outputs = self._model.generate_batch(
            inputs=[list(prompt) for prompt in prompts], generation_config=config, progress_bar=False
        )
        taken = time.perf_counter() - began
        made = [output.generated_tokens for output in outputs.values()]
        return sum(len([token for token in row if token not in stop]) for row in made), taken
