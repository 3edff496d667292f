"""The honest rival for bulk labels alone: an encoder classifier of DistilBERT's shape (Sanh et al. 2019, 66 M
parameters, six layers). Its weights are random, so only its speed means anything; it knows one task, fixed
when it was trained, and writes no replies."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from .child import Child
from .measure import THROUGHPUT_TIMES, Outcome
from .texts import Labelled

BATCH_TOKENS = 2048


class EncoderModel:
    """Lives in the child process: bf16, padded batches of similar length."""

    def __init__(self, model: str) -> None:
        import torch
        from transformers import AutoTokenizer, DistilBertConfig, DistilBertForSequenceClassification

        from moodq_worker.cores import usable_cores

        torch.set_num_threads(usable_cores())
        self._torch = torch
        # Any tokenizer gives lengths near enough; ids are folded into the encoder's own vocabulary.
        self._tokenizer: Any = AutoTokenizer.from_pretrained(model, local_files_only=True)
        self._config = DistilBertConfig()
        classifier: Any = DistilBertForSequenceClassification(self._config)
        self._model: Any = classifier.to(torch.bfloat16).eval()

    def run(self, texts: Sequence[str]) -> float:
        """Seconds for all of ``texts``."""
        torch = self._torch
        began = time.perf_counter()
        rows = sorted((self._tokenizer.encode(text)[:512] or [0] for text in texts), key=len)
        batch: list[list[int]] = []
        with torch.inference_mode():
            for row in [*rows, None]:
                if batch and (row is None or (len(batch) + 1) * (len(row) + 2) > BATCH_TOKENS):
                    width = max(map(len, batch)) + 2
                    ids = torch.zeros(len(batch), width, dtype=torch.long)
                    for number, tokens in enumerate(batch):
                        folded = [token % self._config.vocab_size for token in tokens]
                        ids[number, : len(tokens)] = torch.tensor(folded)
                    mask = torch.arange(width)[None] < torch.tensor([[len(tokens) + 2] for tokens in batch])
                    self._model(input_ids=ids, attention_mask=mask).logits.argmax(-1).tolist()
                    batch = []
                if row is not None:
                    batch.append(row)
        return time.perf_counter() - began


class Encoder:
    name = "an encoder of DistilBERT's shape, bf16, random weights: speed only"
    texts_times = THROUGHPUT_TIMES

    def __init__(self, model: str) -> None:
        self._child = Child("encoder:EncoderModel", model=model)

    def run(self, texts: Sequence[Labelled]) -> Outcome:
        wall = float(self._child.call("run", [text.text for text in texts]))
        return Outcome(wall, [], [None] * len(texts), scored=False)

    def close(self) -> None:
        self._child.close()
