"""Constrained decoding: which tokens may come next, so that what is written follows a grammar.

One ``Constraint`` goes along with a row of ``decode``; rows without one pay nothing. The grammars are
llguidance's (docs/adr/017): compiling one takes a millisecond, a step a quarter of one, and nothing is
computed ahead for a whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from llguidance.hf import from_tokenizer


class Constraint:
    """One row's way through a grammar."""

    def __init__(self, matcher: LLMatcher, vocabulary: int) -> None:
        self._matcher = matcher
        self._mask = np.zeros(-(-vocabulary // 32), dtype=np.int32)

    def allow(self, logits: torch.Tensor) -> None:
        """Rule out, in place, what may not come next; ``logits`` is ``[vocabulary or more]``. Raises
        ``RuntimeError`` when the grammar has become too complex."""
        self._matcher.unsafe_compute_mask_ptr(self._mask.ctypes.data, self._mask.nbytes)
        if self._matcher.is_error():
            raise RuntimeError(f"grammar: {self._matcher.get_error().splitlines()[0]}")
        allowed = np.unpackbits(self._mask.view(np.uint8), bitorder="little")[: len(logits)]
        logits[: len(allowed)].masked_fill_(torch.from_numpy(allowed == 0).to(logits.device), -torch.inf)
        logits[len(allowed) :] = -torch.inf

    def take(self, token: int) -> bool:
        """Go on by ``token``, which was allowed; True when nothing more can follow."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())


class Grammars:
    """Makes constraints for one tokenizer, which takes two seconds to read, mostly with Python's lock held:
    so ``prepare`` before there is work. ``stop_tokens`` may come wherever the grammar may end."""

    def __init__(self, tokenizer: Any, stop_tokens: Collection[int]) -> None:
        self._tokenizer = tokenizer
        self._stop_tokens = sorted(stop_tokens)
        self._reading: Future[LLTokenizer] | None = None
        self._begun: dict[str, LLMatcher] = {}

    def prepare(self) -> None:
        """Begin to read the tokenizer, in a thread, unless that has been done."""
        if self._reading is None:
            reader = ThreadPoolExecutor(1, thread_name_prefix="grammar")
            self._reading = reader.submit(from_tokenizer, self._tokenizer, eos_token=self._stop_tokens)
            reader.shutdown(wait=False)

    def settle(self) -> None:
        """Wait until what ``prepare`` began has ended, well or not."""
        if self._reading is not None:
            wait([self._reading])

    def constraint(self, grammar: str) -> Constraint:
        """A row's constraint, at the beginning of ``grammar``. Raises what reading the tokenizer raised."""
        self.prepare()
        assert self._reading is not None  # noqa: S101 - it was prepared
        read = self._reading.result()
        begun = self._begun.get(grammar)
        if begun is None:
            begun = self._begun[grammar] = LLMatcher(read, grammar, log_level=0)
        return Constraint(begun.deep_copy(), read.vocab_size)

    def forget(self) -> None:
        """Drop the grammars of tasks that are not used any more."""
        self._begun.clear()
