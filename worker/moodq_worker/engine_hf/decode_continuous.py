"""Replies by Transformers' continuous batching: a paged KV cache, and one pass for those that join and those
that go on.

``ContinuousBatchingManager`` brings a thread of its own. Here its parts are driven one pass at a time in the
caller's thread instead (prepare, forward, update), so that labels slip in between passes and no pass begins
that nobody asked for. The library's classes that this needs are touched in this module only.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, LogitsProcessorList, PreTrainedModel
from transformers.generation.continuous_batching.cb_logits_processors import (
    ContinuousBatchingLogitsProcessorList,
)
from transformers.utils.import_utils import is_flash_attn_2_available, is_flash_attn_3_available

from moodq_config.errors import ErrorCode, ModelError
from moodq_worker.engine import DecodeEvent
from moodq_worker.engine_hf.decode import NOT_FINITE, Answer, Request, Writer
from moodq_worker.engine_hf.row_logits import RowLogits

#: Tokens of a page of the KV cache: what is shared of a prefix is whole pages. Flash attention's kernel over
#: a page table takes multiples of 256 only.
PAGE_TOKENS = 32
FLASH_PAGE_TOKENS = 256
#: New tokens of one pass at most; a longer prompt takes several.
PASS_TOKENS = 1_024
#: Requests of one pass at most, as many as MOODQ_MAX_REPLIES allows.
MAX_REQUESTS = 256
#: Free part of the cache below which the pages that only a later request may want are given up.
FREE_PAGES = 0.15


@dataclass(slots=True)
class _Running:
    """``taken`` counts the tokens seen of the library's request, ``slot`` is its row of penalties."""

    answer: Answer
    slot: int
    taken: int = 0


class ContinuousDecode:
    """See ``decode.Decode``. ``kv_tokens`` is the size of the paged KV cache, allocated at once. Greedy only:
    a pass that is captured into a CUDA graph cannot ask a request's own generator."""

    name = "continuous"

    def __init__(self, model: PreTrainedModel, writer: Writer, kv_tokens: int) -> None:
        attention = installed_flash_attention(model)
        served: Any = other_view(model, attention) if attention else model
        self._model: PreTrainedModel = served
        self._writer = writer
        self._page_tokens = FLASH_PAGE_TOKENS if attention else PAGE_TOKENS
        self._pages = -(-kv_tokens // self._page_tokens)
        self._logits = RowLogits(MAX_REQUESTS, model.config.get_text_config().vocab_size, model.device)
        self._running: dict[str, _Running] = {}
        self._ready: list[DecodeEvent] = []
        # Never used twice: a request that was cancelled must not take its successor along.
        self._ids = map(str, itertools.count())
        #: Whether the pages hold what they should; not after a pass that failed.
        self._sound = True
        self._manager = served.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=sorted(writer.stop_tokens)),
            continuous_batching_config=ContinuousBatchingConfig(
                page_size=self._page_tokens,
                num_blocks=self._pages,
                max_batch_tokens=PASS_TOKENS,
                max_requests_per_batch=MAX_REQUESTS,
                safety_margin=FREE_PAGES,
                # A pass that is computed while the next is prepared could not be waited for.
                use_async_batching=False,
                # The library would fetch compiled kernels from the hub.
                auto_switch_to_flash=False,
            ),
        )
        self._manager.logit_processor = _only(self._logits)
        self._manager.warmup()
        self._batch = self._manager.batch_processor

    def __len__(self) -> int:
        return len(self._running)

    @property
    def model(self) -> PreTrainedModel:
        return self._model

    def fits(self, requests: Sequence[Request]) -> bool:
        everyone = [*requests, *(running.answer.request for running in self._running.values())]
        if len(everyone) == 1:
            return True
        return len(everyone) <= MAX_REQUESTS and sum(map(self._pages_of, everyone)) <= self._pages

    def join(self, requests: Sequence[Request]) -> None:
        for request in requests:
            if request.sampler is not None:
                raise ModelError(
                    "the task samples (temperature above 0) and continuous batching is greedy; set "
                    "MOODQ_DECODE=loop, or the task's temperature to 0",
                    code=ErrorCode.ENGINE_FAILED,
                )
            if (pages := self._pages_of(request)) > self._pages:
                needed, limit = pages * self._page_tokens, self._pages * self._page_tokens
                raise ModelError(
                    f"a reply to this text may need {needed} tokens of KV cache, the limit is {limit}; raise "
                    "MOODQ_KV_TOKENS or set MOODQ_DECODE=loop",
                    code=ErrorCode.ENGINE_FAILED,
                )
        if not self._sound:
            self._start_again()
        # Whole pages of a prefix are shared once they are filled, so somebody has to go ahead.
        first: dict[tuple[int, ...], Request] = {}
        for request in requests:
            if not self._has_pages_of(request.prefix):
                first.setdefault(request.prefix, request)
        ahead = [request for request in requests if first.get(request.prefix) is request]
        others = [request for request in requests if first.get(request.prefix) is not request]
        try:
            for group in (ahead, others):
                names = [self._add(Answer(request)) for request in group]
                while any(name in self._running and not self._running[name].taken for name in names):
                    self._pass()
        except BaseException:
            for request in requests:
                self.cancel(request.key)
            raise

    def step(self) -> list[DecodeEvent]:
        if self._running:
            if not self._sound:
                self._start_again()
            self._pass()
        ready, self._ready = self._ready, []
        return ready

    def cancel(self, key: int) -> None:
        self._ready = [event for event in self._ready if event.key != key]
        for name in [name for name, one in self._running.items() if one.answer.request.key == key]:
            self._release(name)
            self._manager.cancel_request(name)  # its pages are free before the next pass is scheduled

    def clear(self) -> None:
        for running in list(self._running.values()):
            self.cancel(running.answer.request.key)
        self._ready = []

    def _pages_of(self, request: Request) -> int:
        return -(-request.most_tokens // self._page_tokens)

    def _has_pages_of(self, prefix: tuple[int, ...]) -> bool:
        tokens, whole = [*prefix, 0], len(prefix) // self._page_tokens
        allocators = self._batch.cache.cache_allocators.values()
        return all(len(one.match_prefix_blocks(tokens)) == whole for one in allocators)

    def _add(self, answer: Answer, slot: int | None = None) -> str:
        request, name = answer.request, next(self._ids)
        slot = self._logits.slot(request) if slot is None else slot
        self._running[name] = _Running(answer, slot)
        self._logits.slots[name] = slot
        self._manager.add_request(
            [*request.prefix, *request.tokens, *answer.made],
            request_id=name,
            max_new_tokens=request.max_new_tokens - len(answer.made),
            eos_token_id=sorted(self._writer.stop_tokens),
            streaming=True,
        )
        return name

    def _release(self, name: str) -> None:
        running = self._running.pop(name, None)
        if running is not None:
            del self._logits.slots[name]
            self._logits.free(running.slot)

    def _start_again(self) -> None:
        """After a failed pass the pages and the library's own view of the requests are in an unknown state,
        what we know is not: those that run are prefilled anew, with the tokens they have made."""
        for queue in (self._manager.input_queue, self._manager.cancel_queue, self._outputs):
            _drain(queue)
        self._batch.reset()
        self._batch.cache.reset()
        self._sound = True
        survivors, self._running = self._running, {}
        for name, running in survivors.items():
            del self._logits.slots[name]
            self._add(running.answer, running.slot)
            self._logits.note([(running.slot, *made) for made in enumerate(running.answer.made)])

    def _pass(self) -> None:
        """One forward pass: a token for everyone that is past its prompt. Where it raises, nothing it made is
        taken."""
        self._sound = False
        with self._stream():
            if not self._batch.prepare_next_batch():
                raise RuntimeError("no request could be scheduled")
            self._batch._generation_step(self._model)
            self._batch.update_batch()
        if not self._logits.all_finite():
            # Without a kernel that keeps requests apart one may have spoilt them all, and the shared pages.
            raise FloatingPointError(NOT_FINITE)
        self._sound = True
        made: list[tuple[int, int, int]] = []
        for output in _drain(self._outputs):
            running = self._running.get(output.request_id)
            if running is None:
                continue
            for token in output.generated_tokens[running.taken :]:
                running.taken += 1
                event = self._writer.take(running.answer, token)
                self._ready.append(event)
                if event.finish_reason is not None:
                    self._release(output.request_id)
                    self._manager.cancel_request(output.request_id)  # a grammar's end is ours alone to see
                    break
                made.append((running.slot, len(running.answer.made) - 1, token))
        self._logits.note(made)

    @property
    def _outputs(self) -> SimpleQueue[Any]:
        queue: SimpleQueue[Any] = self._manager.output_router.output_queue
        return queue

    def _stream(self) -> AbstractContextManager[Any]:
        """The library computes on a stream of its own, but writes a pass's inputs on the current one: on the
        same stream they are in order."""
        stream = self._batch.inputs_and_outputs.compute_stream
        return nullcontext() if stream is None else torch.cuda.stream(stream)


def installed_flash_attention(model: PreTrainedModel) -> str | None:
    """The flash attention of this machine that may serve ``model``: a package that somebody installed."""
    if model.device.type != "cuda" or model.dtype not in (torch.bfloat16, torch.float16):
        return None
    if not model._supports_flash_attn:
        return None
    if is_flash_attn_3_available() and torch.cuda.get_device_capability(model.device)[0] == 9:
        return "flash_attention_3"
    return "flash_attention_2" if is_flash_attn_2_available() else None


def other_view(model: PreTrainedModel, attention: str) -> PreTrainedModel:
    """``model`` again, over the same weights, with another attention: labels need masks that flash attention
    does not know."""
    shared: dict[int, Any] = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
    view = copy.deepcopy(model, shared)
    view.set_attn_implementation(attention)
    return view


def _only(processor: RowLogits) -> ContinuousBatchingLogitsProcessorList:
    processors = ContinuousBatchingLogitsProcessorList(LogitsProcessorList([processor]))
    processors.tensors_required = 1  # counted by the library for its own processors only
    return processors


def _drain(queue: Any) -> list[Any]:
    return [queue.get_nowait() for _ in range(queue.qsize())]
