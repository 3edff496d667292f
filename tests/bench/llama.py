"""llama.cpp on the same GGUF file, through llama-cpp-python: labels with the prompt cached and only the label
words' logits compared; replies one by one, and as parallel sequences of one batch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from .child import Child
from .measure import Outcome
from .texts import Labelled

SEQUENCES = 64
CONTEXT = 32_768
BATCH = 512

Prompt = dict[str, Any]


class LlamaModel:
    """Lives in the child process. Prompts come as tokens: the file and moodq's model share a tokenizer.

    ``extra_buffers`` lets llama.cpp lay weights out anew for the machine's special kernels. One context holds
    all sequences; the first ``SEQUENCES // 2`` are texts, the others keep the prompts'
    fixed parts, computed once each.
    """

    def __init__(self, gguf: str, extra_buffers: bool) -> None:
        import llama_cpp

        from moodq_worker.cores import usable_cores

        self._lib: Any = llama_cpp
        llama_cpp.llama_backend_init()
        loading = llama_cpp.llama_model_default_params()
        loading.use_extra_bufts = extra_buffers
        model = llama_cpp.llama_model_load_from_file(gguf.encode(), loading)
        if model is None:
            raise RuntimeError(f"{gguf} cannot be loaded")
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx, parameters.n_batch, parameters.n_ubatch = CONTEXT, BATCH, BATCH
        parameters.n_threads = parameters.n_threads_batch = usable_cores()
        parameters.n_seq_max, parameters.kv_unified = SEQUENCES, True
        self._context: Any = llama_cpp.llama_init_from_model(model, parameters)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch: Any = llama_cpp.llama_batch_init(BATCH, 0, 1)
        self._vocabulary = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        self._prefixes: list[tuple[int, ...]] = []

    def warm_up(self) -> None:
        """A short prompt; a build whose special kernels do not work on this machine dies here."""
        self._decode([(100, place, 0) for place in range(64)])
        self._lib.llama_memory_seq_rm(self._memory, 0, -1, -1)

    def labels(self, prompts: Sequence[Prompt]) -> dict[str, Any]:
        latencies, labels = [], []
        for prompt in prompts:
            self._prefix(prompt)
            began = time.perf_counter()
            logits = self._begin(0, prompt)
            scores = {label: float(logits[token]) for label, token in prompt["labels"].items()}
            labels.append(max(scores, key=scores.__getitem__))
            latencies.append(time.perf_counter() - began)
        return {"wall_s": sum(latencies), "latencies_s": latencies, "labels": labels}

    def replies_alone(self, prompts: Sequence[Prompt], stop: list[int], limit: int) -> tuple[int, float]:
        """(tokens made, seconds), one reply after the other, greedy."""
        made, taken = 0, 0.0
        for prompt in prompts:
            tokens, seconds = self.replies_together([prompt], stop, limit)
            made, taken = made + tokens, taken + seconds
        return made, taken

    def replies_together(self, prompts: Sequence[Prompt], stop: list[int], limit: int) -> tuple[int, float]:
        """All prompts as sequences of one batch."""
        for prompt in prompts:
            self._prefix(prompt)
        began, made = time.perf_counter(), 0
        last = {
            sequence: int(self._begin(sequence, prompt).argmax()) for sequence, prompt in enumerate(prompts)
        }
        lengths = [len(prompt["prefix"]) + len(prompt["rest"]) for prompt in prompts]
        for _ in range(limit):
            last = {sequence: token for sequence, token in last.items() if token not in stop}
            if not last:
                break
            made += len(last)
            self._decode(
                [(token, lengths[sequence], sequence) for sequence, token in last.items()], every=True
            )
            for place, sequence in enumerate(last):
                lengths[sequence] += 1
                last[sequence] = int(self._logits(place).argmax())
        return made, time.perf_counter() - began

    def _prefix(self, prompt: Prompt) -> int:
        """The sequence that keeps the prompt's fixed part; computed when it is new."""
        prefix = tuple(prompt["prefix"])
        if prefix not in self._prefixes:
            self._prefixes.append(prefix)
            sequence = SEQUENCES // 2 + len(self._prefixes) - 1
            self._decode([(token, place, sequence) for place, token in enumerate(prefix)])
        return SEQUENCES // 2 + self._prefixes.index(prefix)

    def _begin(self, sequence: int, prompt: Prompt) -> Any:
        """Logits after the whole prompt, its fixed part copied cell by cell."""
        self._lib.llama_memory_seq_rm(self._memory, sequence, -1, -1)
        self._lib.llama_memory_seq_cp(self._memory, self._prefix(prompt), sequence, -1, -1)
        past = len(prompt["prefix"])
        self._decode([(token, past + place, sequence) for place, token in enumerate(prompt["rest"])])
        return self._logits(-1)

    def _decode(self, entries: list[tuple[int, int, int]], *, every: bool = False) -> None:
        batch = self._batch
        for start in range(0, len(entries), BATCH):
            part = entries[start : start + BATCH]
            batch.n_tokens = len(part)
            for place, (token, position, sequence) in enumerate(part):
                batch.token[place], batch.pos[place] = token, position
                batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence
                batch.logits[place] = every or start + place == len(entries) - 1
            if self._lib.llama_decode(self._context, batch):
                raise RuntimeError("llama_decode failed: the context is too small")

    def _logits(self, place: int) -> Any:
        import numpy

        logits = self._lib.llama_get_logits_ith(self._context, place)
        return numpy.ctypeslib.as_array(logits, shape=(self._vocabulary,))


class LlamaLabels:
    """The row: one text at a time, which is how a server with a cached prompt is called."""

    name = "llama.cpp, Q4_K_M, prompt cached, label words' logits"
    texts_times = 1

    def __init__(self, child: Child, engine: Child) -> None:
        self._child, self._engine = child, engine

    def run(self, texts: Sequence[Labelled]) -> Outcome:
        prompts = self._engine.call("label_prompts", [(text.text, text.lang) for text in texts])
        return Outcome(**self._child.call("labels", prompts))
