"""The engine over Transformers: one causal model with a chat template, on CPU or GPU.

It answers the questions of ``moodq_worker.engine``: judge these texts (``labels``), rank these documents
(``ranking``), and go on with these replies (``decode``). What they are asked with comes from ``prompt_book``,
and its fixed parts from the KV cache (``prefixes``).
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging as transformers_logging

from moodq_config.answers import Judgement, Ranking
from moodq_config.contracts import ModelRef
from moodq_config.errors import ErrorCode, ModelError
from moodq_config.task_kinds import ExtractTask, GenerateTask, Lang, RerankTask, Task, WriteTask
from moodq_config.tasks import TaskSet
from moodq_worker.cores import usable_cores
from moodq_worker.engine import DecodeEvent, Generation, ModelInfo
from moodq_worker.engine_hf.batch_budget import BATCH_TOKENS, best_batch_tokens
from moodq_worker.engine_hf.calibrate import calibrate
from moodq_worker.engine_hf.decode import Decode, Request, Writer
from moodq_worker.engine_hf.decode_choice import fastest, make_decodes
from moodq_worker.engine_hf.grammar import Constraint, Grammars
from moodq_worker.engine_hf.hardware import (
    DTYPES,
    choose_device,
    choose_precision,
    give_back_memory,
)
from moodq_worker.engine_hf.int8 import Int8Output, quantize
from moodq_worker.engine_hf.kv_cache import Prefix
from moodq_worker.engine_hf.labels import calibrated, score_labels
from moodq_worker.engine_hf.mapped import MappedWeights, map_embedding, output_matrix
from moodq_worker.engine_hf.packed import can_pack, fuse, pack
from moodq_worker.engine_hf.prefill import extended
from moodq_worker.engine_hf.prefixes import Prefixes
from moodq_worker.engine_hf.prompt_book import Judging, PromptBook
from moodq_worker.engine_hf.ranking import rank
from moodq_worker.engine_hf.sampling import Sampler
from moodq_worker.engine_hf.texts import Texts, read_tokenizer
from moodq_worker.extraction import grammar_of

GIVE_BACK_EVERY_S = 5.0
#: What Transformers raises for files it cannot make a model or a tokenizer of.
LOAD_ERRORS = (OSError, ValueError, KeyError, RuntimeError, SafetensorError)
_WARM_UP_TEXTS: dict[Lang, str] = {"zh": "今天天气很好。", "en": "It is a fine day."}
_WARM_UP_CHOICES = ("A", "B")


class HfEngine:
    """See ``moodq_worker.engine.Engine`` for the contract of each method."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        info: ModelInfo,
        output_matrix: torch.Tensor,
        weights: MappedWeights,
        prefixes: Prefixes,
        decodes: Sequence[Decode],
    ) -> None:
        self._model = model
        self._info = info
        self._weights = weights
        self._memory_given_back = 0.0
        self._seed = secrets.randbits(62)
        self._texts = Texts(tokenizer)
        self._book = PromptBook(model, info.ref.id, self._texts, output_matrix, tokenizer.eos_token_id)
        #: Of definitions that are not in force any more, while texts that came before are under way.
        self._old_books: dict[str, PromptBook] = {}
        self._prefixes = prefixes
        self._grammars = Grammars(tokenizer, _stop_tokens(model, tokenizer))
        self._decodes = list(decodes)

    @property
    def _decode(self) -> Decode:
        return self._decodes[0]

    @property
    def info(self) -> ModelInfo:
        return self._info

    def use_tasks(self, tasks: TaskSet) -> None:
        self._old_books[self._book.tasks.revision] = self._book
        self._book = self._book_of(tasks)

    def retire_tasks(self) -> None:
        self._old_books.clear()
        self._prefixes.keep(self._book.prefixes)
        self._grammars.forget()

    def warm_up(self, names: Sequence[str] | None = None) -> None:
        tasks = self._book.tasks
        names = list(tasks) if names is None else names
        if any(isinstance(tasks[name], ExtractTask) for name in names):
            self._grammars.prepare()
        for name in names:
            for lang, text in _WARM_UP_TEXTS.items():
                self._warm_up(tasks[name], lang, self.encode([text])[0])
        self._grammars.settle()
        self._give_back()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        return self._texts.foreign(texts)

    def label(
        self,
        tasks: Sequence[str],
        lang: Lang,
        texts: Sequence[Sequence[int]],
        choices: Sequence[str] = (),
        *,
        of: TaskSet | None = None,
    ) -> list[list[Judgement]]:
        book = self._book_of(of)  # a text that comes between two layers may be of another
        judging = [book.judging(task, lang, choices) for task in tasks]
        heads = [head for one in judging for head in one.heads]
        begun = self._begun(judging[0])
        if strength := judging[0].calibration:
            *found, [prior] = score_labels(self._model, begun, heads, [*texts, ()])
            found = [[calibrated(one, prior, strength)] for [one] in found]
        else:
            found = score_labels(self._model, begun, heads, texts)
        self._give_back_at_times()
        answers: list[list[Judgement]] = []
        for scores in found:
            rest = iter(scores)
            answers.append(
                [
                    book.answer(task, list(islice(rest, len(one.heads))))
                    for task, one in zip(tasks, judging, strict=True)
                ]
            )
        return answers

    def rerank(
        self,
        task: str,
        lang: Lang,
        query: Sequence[int],
        documents: Sequence[Sequence[int]],
        *,
        of: TaskSet | None = None,
    ) -> Ranking:
        judging = self._book_of(of).judging(task, lang)
        ranking = rank(self._model, self._begun(judging, query), judging.heads[0], documents)
        self._give_back_at_times()
        return ranking

    def best_batch_tokens(self) -> int:
        task = next(iter(self._book.tasks.labels()), None)
        if task is None:
            return BATCH_TOKENS[0]
        judging = self._book.judging(task.name, "zh")
        words = self.encode([_WARM_UP_TEXTS["zh"]])[0]
        return best_batch_tokens(self._model, self._prefixes.get(judging.prefix), judging.heads[0], words)

    def between_layers(self, callback: Callable[[], None]) -> None:
        on_cuda = self._model.device.type == "cuda"

        def before_layer(*_: object) -> None:
            # What is captured into a CUDA graph must be the pass itself.
            if not (on_cuda and torch.cuda.is_current_stream_capturing()):
                callback()

        models: dict[int, Any] = {id(one): one for one in (self._model, *(d.model for d in self._decodes))}
        for model in models.values():
            for layer in getattr(model.base_model, "layers", ()):
                layer.register_forward_pre_hook(before_layer)

    def fits(self, generations: Sequence[Generation]) -> bool:
        return self._decode.fits([self._request(one) for one in generations])

    def admit(self, generations: Sequence[Generation]) -> None:
        self._decode.join(
            [
                replace(self._request(one), constraint=self._constraint(one), sampler=self._sampler(one))
                for one in generations
            ]
        )

    def step(self) -> list[DecodeEvent]:
        try:
            events = self._decode.step()
            if not len(self._decode):
                self._give_back_at_times()  # the KV cache of the replies that were just finished
            return events
        except Exception:
            # The cache is in an unknown state: the rows cannot go on, the next ones can.
            self._decode.clear()
            raise

    def cancel(self, key: int) -> None:
        self._decode.cancel(key)

    @property
    def running(self) -> int:
        return len(self._decode)

    def prompt_tokens(self, task: str, lang: Lang, *, of: TaskSet | None = None) -> int:
        book = self._book_of(of)
        found = book.tasks[task]
        if isinstance(found, WriteTask):
            steers = found.prompt[lang].steer if isinstance(found, GenerateTask) else ()
            return len(book.writing(task, lang, next(iter(steers), None)).prefix)
        return len(book.judging(task, lang, _WARM_UP_CHOICES).prefix)

    def _give_back_at_times(self) -> None:
        if time.monotonic() - self._memory_given_back > GIVE_BACK_EVERY_S:
            self._give_back()

    def _give_back(self) -> None:
        """What passes have left behind, to the system: some milliseconds, so not after each."""
        self._memory_given_back = time.monotonic()
        self._weights.forget()
        give_back_memory()

    def _book_of(self, tasks: TaskSet | None) -> PromptBook:
        if tasks is None or tasks == self._book.tasks:
            return self._book
        if (book := self._old_books.get(tasks.revision)) is None:
            book = self._old_books[tasks.revision] = self._book.of(tasks)
        return book

    def _begun(self, judging: Judging, query: Sequence[int] = ()) -> Prefix:
        """The KV cache of what all texts of a pass begin with."""
        prefix, before = self._prefixes.get(judging.prefix), [*query, *judging.before]
        return extended(self._model, prefix, before) if before else prefix

    def _request(self, generation: Generation) -> Request:
        book = self._book_of(generation.of)
        task = book.tasks.write_task(generation.task)
        prompt = book.writing(generation.task, generation.lang, generation.label)
        tokens = book.new_tokens(
            generation.task, generation.lang, generation.label, generation.tokens, generation.history
        )
        return Request(generation.key, prompt.prefix, tokens, task.max_new_tokens, task.repetition_penalty)

    def _constraint(self, generation: Generation) -> Constraint | None:
        task = self._book_of(generation.of).tasks.write_task(generation.task)
        if not isinstance(task, ExtractTask):
            return None
        return self._grammars.constraint(grammar_of(task.json_schema))

    def _sampler(self, generation: Generation) -> Sampler | None:
        """One that draws the same again when the text begins anew, and something else in every process."""
        task = self._book_of(generation.of).tasks.write_task(generation.task)
        if isinstance(task, GenerateTask) and task.temperature > 0:
            return Sampler(task.temperature, task.top_p, (self._seed + generation.key) % 2**63)
        return None

    def _warm_up(self, task: Task, lang: Lang, tokens: list[int]) -> None:
        if isinstance(task, WriteTask):
            steers = tuple(task.prompt[lang].steer) if isinstance(task, GenerateTask) else ()
            keys = range(-max(1, len(steers)), 0)
            labels = steers or (None,)
            generations = [
                Generation(key, task.name, lang, label, tokens)
                for key, label in zip(keys, labels, strict=True)
            ]
            if isinstance(task, GenerateTask):
                self._decodes = [fastest(self._decodes, self._request(generations[0]))]
            for generation in generations:
                self.admit([generation])
            self.step()
            self._decode.clear()
            return
        answers: list[Judgement]
        if isinstance(task, RerankTask):
            answers = [self.rerank(task.name, lang, tokens, [tokens, tokens * 4])]
        else:
            found = self.label([task.name], lang, [tokens, tokens * 4], _WARM_UP_CHOICES)
            answers = [answer for [answer] in found]
        if not all(answer.finite for answer in answers):
            raise ModelError(
                f"warm-up: task {task.name} gave no finite probability; the weights or the precision "
                f"({self._info.ref.precision}) are unusable, try MOODQ_PRECISION=fp32",
                code=ErrorCode.WARM_UP_FAILED,
            )


def load_engine(
    path: Path,
    *,
    model_id: str,
    revision: str,
    licence: str,
    device: str,
    precision: str,
    threads: int,
    kv_tokens: int = 24_576,
    prefix_tokens: int = 16_384,
    decode: str = "auto",
) -> HfEngine:
    """Load the model in folder ``path`` (safetensors, tokenizer files).

    ``kv_tokens`` bounds the KV cache of the running replies. ``prefix_tokens`` bounds those of the tasks'
    fixed prompts, together. ``decode`` says what runs the replies (``decode_choice``).

    Raises ``ModelError`` (model_invalid) when Transformers cannot make a causal model of it, ``ConfigError``
    when device, precision and ``decode`` do not go together.
    """
    target = choose_device(device)
    chosen = choose_precision(precision, target)
    cores = threads or usable_cores()
    torch.set_num_threads(cores)
    transformers_logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=DTYPES[chosen],
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="sdpa",
        )
    except LOAD_ERRORS as error:
        raise _not_loadable(path, error) from error
    cast("torch.nn.Module", model).to(target).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    weights = MappedWeights(path)
    matrix = output_matrix(model, weights)
    with ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as beside:
        # A second of one core, while the other lays out the weights.
        reading = beside.submit(_tokenizer, path)
        if target.type == "cpu":
            _fit_to_cpu(model, reading, weights, chosen)
        tokenizer = reading.result()
    ref = ModelRef(id=model_id, revision=revision, precision=chosen)
    info = ModelInfo(ref, device=str(target), threads=cores, parameters=parameters, licence=licence)
    prefixes = Prefixes(model, prefix_tokens)
    writer = Writer(tokenizer, _stop_tokens(model, tokenizer))
    decodes = make_decodes(decode, model, writer, prefixes, kv_tokens, chosen)
    return HfEngine(model, tokenizer, info, matrix, weights, prefixes, decodes)


def _tokenizer(path: Path) -> Any:
    try:
        return read_tokenizer(path)
    except LOAD_ERRORS as error:
        raise _not_loadable(path, error) from error


def _not_loadable(path: Path, error: Exception) -> ModelError:
    return ModelError(
        f"{path} cannot be loaded as a causal language model ({type(error).__name__}); it needs "
        "config.json, *.safetensors and tokenizer files of a chat model"
    )


def _fit_to_cpu(
    model: PreTrainedModel, tokenizer: Future[Any], weights: MappedWeights, precision: str
) -> None:
    """Lay the weights out for the CPU's kernels, in place."""
    packs = can_pack(precision)
    if precision == "int8":
        quantize(model, calibrate(model, tokenizer.result()))
    elif packs:
        fuse(model)
    if precision == "int8" or packs:
        model.set_output_embeddings(Int8Output(model.get_output_embeddings()))
    if packs:
        pack(model)
    map_embedding(model, weights)


def _stop_tokens(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*ids, tokenizer.eos_token_id] if token is not None)
