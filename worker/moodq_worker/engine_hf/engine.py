"""The engine over Transformers: one causal model with a chat template, on CPU or GPU.

It answers the two questions of ``moodq_worker.engine``: label these texts (``labels``), and go on with
these replies (``decode``), with every task's fixed prompt in the KV cache (``kv_cache``).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from moodq_config.contracts import LabelScores, ModelRef
from moodq_config.errors import ErrorCode, ModelError
from moodq_config.tasks import LANGS, GenerateTask, LabelTask, Lang, TaskSet
from moodq_worker.engine import DecodeEvent, Generation, ModelInfo
from moodq_worker.engine_hf.batch_budget import best_batch_tokens
from moodq_worker.engine_hf.calibrate import calibrate
from moodq_worker.engine_hf.decode import DecodeBatch, Prompt, Row
from moodq_worker.engine_hf.hardware import (
    DTYPES,
    choose_device,
    choose_precision,
    give_back_memory,
    usable_cores,
)
from moodq_worker.engine_hf.int8 import Int8Output, quantize
from moodq_worker.engine_hf.kv_cache import Prefix, compute_prefix
from moodq_worker.engine_hf.labels import LabelHead, score_labels
from moodq_worker.engine_hf.mapped import map_embedding, output_matrix
from moodq_worker.engine_hf.packed import can_pack, fuse, pack
from moodq_worker.engine_hf.prompts import (
    PromptTokens,
    Turn,
    generate_turns,
    label_turns,
    steering_labels,
    text_first_turns,
    tokenize_prompt,
)

GIVE_BACK_EVERY_S = 5.0
_WARM_UP_TEXTS: dict[Lang, str] = {"zh": "今天天气很好。", "en": "It is a fine day."}


class HfEngine:
    """See ``moodq_worker.engine.Engine`` for the contract of each method."""

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        info: ModelInfo,
        output_matrix: torch.Tensor,
        kv_tokens: int,
    ) -> None:
        self._model = model
        self._output_matrix = output_matrix
        self._memory_given_back = 0.0
        self._kv_tokens = kv_tokens
        self._tokenizer = tokenizer
        self._tokenizing = threading.Lock()
        self._info = info
        self._tasks: TaskSet | None = None
        self._heads: dict[tuple[str, Lang], LabelHead] = {}
        self._replies: dict[tuple[str, Lang, str | None], tuple[Prefix, tuple[int, ...]]] = {}
        self._decode = DecodeBatch(model, tokenizer, _stop_tokens(model, tokenizer))

    @property
    def info(self) -> ModelInfo:
        return self._info

    def use_tasks(self, tasks: TaskSet) -> None:
        heads: dict[tuple[str, Lang], LabelHead] = {}
        replies: dict[tuple[str, Lang, str | None], tuple[Prefix, tuple[int, ...]]] = {}
        for lang in LANGS:
            together = [task for task in tasks.labels() if task.layout == "text_first"]
            shared = self._prefix(text_first_turns(together, lang), "{text}") if together else None
            for task in tasks.labels():
                prompt = task.prompt[lang]
                own = shared if task in together else self._prefix(label_turns(prompt), prompt.user)
                assert own is not None  # noqa: S101 - together holds the task
                heads[task.name, lang] = self._label_head(task, lang, *own)
        for generate in tasks.generates():
            for lang in LANGS:
                answer = generate.prompt[lang]
                for label in steering_labels(generate, answer):
                    replies[generate.name, lang, label] = self._prefix(
                        generate_turns(answer, label), answer.user
                    )
        self._tasks, self._heads, self._replies = tasks, heads, replies

    def warm_up(self) -> None:
        if self._tasks is None:
            raise ModelError("use_tasks must come before warm_up", code=ErrorCode.WARM_UP_FAILED)
        for lang, text in _WARM_UP_TEXTS.items():
            tokens = self.encode([text])[0]
            for task in self._tasks.labels():
                for [scores] in self.label([task.name], lang, [tokens, tokens * 4]):
                    if not math.isfinite(scores.probability):
                        raise ModelError(
                            f"warm-up: task {task.name} gave no finite probability; the weights or the "
                            f"precision ({self._info.ref.precision}) are unusable, try MOODQ_PRECISION=fp32",
                            code=ErrorCode.WARM_UP_FAILED,
                        )
        keys = [key for key in self._replies if key[2] is not None] or list(self._replies)
        for number, (name, lang, label) in enumerate(keys[:2]):
            tokens = self.encode([_WARM_UP_TEXTS[lang]])[0]
            self.admit([Generation(-1 - number, name, lang, label, tokens)])
        for _ in range(3):
            self.step()
        self._decode.clear()
        give_back_memory()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        backend = self._tokenizer.backend_tokenizer
        with self._tokenizing:
            # To a text, `<|im_end|>` and its like are only characters: a message cannot close its own turn.
            backend.encode_special_tokens = True
            encodings = backend.encode_batch(list(texts), add_special_tokens=False)
        return [list(encoding.ids) for encoding in encodings]

    def label(
        self, tasks: Sequence[str], lang: Lang, texts: Sequence[Sequence[int]]
    ) -> list[list[LabelScores]]:
        return score_labels(self._model, [self._heads[task, lang] for task in tasks], texts)

    def best_batch_tokens(self) -> int:
        head = next(iter(self._heads.values()), None)
        return best_batch_tokens(self._model, head, self.encode([_WARM_UP_TEXTS["zh"]])[0])

    def between_layers(self, callback: Callable[[], None]) -> None:
        def before_layer(*_: object) -> None:
            callback()

        layers: Any = getattr(self._model.base_model, "layers", ())
        for layer in layers:
            layer.register_forward_pre_hook(before_layer)

    def fits(self, generations: Sequence[Generation]) -> bool:
        lengths = []
        for generation in generations:
            prefix, suffix = self._reply_prompt(generation)
            limit = self._generate_task(generation.task).max_new_tokens
            lengths.append(prefix.tokens + len(generation.tokens) + len(suffix) + limit)
        return self._decode.fits(lengths, self._kv_tokens)

    def admit(self, generations: Sequence[Generation]) -> None:
        prompts, rows = [], []
        for generation in generations:
            task = self._generate_task(generation.task)
            prefix, suffix = self._reply_prompt(generation)
            prompts.append(Prompt(prefix, (*generation.tokens, *suffix)))
            rows.append(Row(generation.key, task.max_new_tokens, task.repetition_penalty))
        self._decode.join(prompts, rows)

    def step(self) -> list[DecodeEvent]:
        try:
            events = self._decode.step()
            if not len(self._decode) and time.monotonic() - self._memory_given_back > GIVE_BACK_EVERY_S:
                self._memory_given_back = time.monotonic()
                give_back_memory()  # the KV cache of the replies that were just finished
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

    def prompt_tokens(self, task: str, lang: Lang) -> int:
        if (task, lang) in self._heads:
            return self._heads[task, lang].prefix.tokens
        return next(
            prefix.tokens for key, (prefix, _) in self._replies.items() if key[0] == task and key[1] == lang
        )

    def _label_head(self, task: LabelTask, lang: Lang, prefix: Prefix, suffix: tuple[int, ...]) -> LabelHead:
        prompt = task.prompt[lang]
        words = tuple(self._plain_tokens(prompt.words[label]) for label in task.labels)
        rows = self._output_matrix[[word[0] for word in words]].float()
        return LabelHead(
            labels=task.labels,
            words=words,
            bias=torch.tensor([prompt.bias.get(label, 0.0) for label in task.labels]),
            rows=rows.to(self._model.device),
            prefix=prefix,
            suffix=suffix,
            ask=self._plain_tokens(prompt.ask or ""),
        )

    def _prefix(self, turns: list[Turn], user: str) -> tuple[Prefix, tuple[int, ...]]:
        tokens = self._prompt_tokens(turns, user)
        return compute_prefix(self._model, tokens.prefix), tokens.suffix

    def _plain_tokens(self, text: str) -> tuple[int, ...]:
        with self._tokenizing:
            return tuple(self._tokenizer.encode(text, add_special_tokens=False))

    def _prompt_tokens(self, turns: list[Turn], user: str) -> PromptTokens:
        with self._tokenizing:
            return tokenize_prompt(self._tokenizer, turns, user)

    def _reply_prompt(self, generation: Generation) -> tuple[Prefix, tuple[int, ...]]:
        steers = self._generate_task(generation.task).prompt[generation.lang].steer
        return self._replies[generation.task, generation.lang, generation.label if steers else None]

    def _generate_task(self, name: str) -> GenerateTask:
        task = self._tasks[name] if self._tasks else None
        if not isinstance(task, GenerateTask):
            raise ModelError(f"{name} is not a generate task", code=ErrorCode.ENGINE_FAILED)
        return task


def load_engine(
    path: Path,
    *,
    model_id: str,
    revision: str,
    licence: str,
    device: str,
    precision: str,
    threads: int,
    kv_tokens: int = 16_384,
) -> HfEngine:
    """Load the model in folder ``path`` (safetensors, tokenizer files).

    ``kv_tokens`` bounds the KV cache of the running replies: rows times the longest.

    Raises ``ModelError`` (model_invalid) when Transformers cannot make a causal model of it.
    """
    target = choose_device(device)
    chosen = choose_precision(precision, target)
    cores = threads or usable_cores()
    torch.set_num_threads(cores)
    transformers_logging.disable_progress_bar()
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        model = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=DTYPES[chosen],
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation="sdpa",
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(
            f"{path} cannot be loaded as a causal language model ({type(error).__name__}); it needs "
            "config.json, *.safetensors and tokenizer files of a chat model"
        ) from error
    cast("torch.nn.Module", model).to(target).eval()
    parameters = sum(parameter.numel() for parameter in model.parameters())
    matrix = output_matrix(model, path)
    if target.type == "cpu":
        _fit_to_cpu(model, tokenizer, path, chosen)
    ref = ModelRef(id=model_id, revision=revision, precision=chosen)
    info = ModelInfo(ref, device=str(target), threads=cores, parameters=parameters, licence=licence)
    return HfEngine(model, tokenizer, info, matrix, kv_tokens)


def _fit_to_cpu(model: PreTrainedModel, tokenizer: Any, path: Path, precision: str) -> None:
    """Lay the weights out for the CPU's kernels, in place."""
    packs = can_pack(precision)
    if precision == "int8":
        quantize(model, calibrate(model, tokenizer))
    elif packs:
        fuse(model)
    if precision == "int8" or packs:
        model.set_output_embeddings(Int8Output(model.get_output_embeddings()))
    if packs:
        pack(model)
    map_embedding(model, path)


def _stop_tokens(model: PreTrainedModel, tokenizer: Any) -> frozenset[int]:
    configured = model.generation_config.eos_token_id if model.generation_config else None
    ids = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in [*ids, tokenizer.eos_token_id] if token is not None)
