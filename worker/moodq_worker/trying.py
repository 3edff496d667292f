"""One text by one task, once, on an engine of its own: what ``moodq tasks try`` runs without Redis.

The loop's stages in their simplest form: label, then the reply that the label steers. Nothing is batched,
cached or handed to a remote endpoint.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from moodq_config.answers import Answer, Judgement, LabelScores, Writing
from moodq_config.contracts import Cut, ItemError, RequestItem, Result, ResultStatus, Timings, Truncated
from moodq_config.errors import BadInput, ErrorCode, ModelError, MoodqError
from moodq_config.settings import Settings
from moodq_config.tasks import GenerateTask, Lang, RerankTask, TaskSet, WriteTask, detect_lang
from moodq_worker.engine import Engine, Generation
from moodq_worker.extraction import check_schemas
from moodq_worker.replies import written
from moodq_worker.sentences import to_show
from moodq_worker.wiring import build_engine


def try_here(settings: Settings, tasks: TaskSet, item: RequestItem, timeout_s: float) -> Result:
    """Load the model, compute the task's prompt, then run ``item``, whose one task is timed alone.

    Raises ``ConfigError`` for a schema that cannot be written to, ``ModelError`` when the model cannot be
    loaded or gives no usable numbers.
    """
    check_schemas(tasks)
    engine = build_engine(settings)
    engine.use_tasks(tasks)
    engine.warm_up(item.tasks)
    return Trial(engine, tasks, settings).run(item)


class Trial:
    """Runs items of one task on an engine that knows ``tasks``."""

    def __init__(self, engine: Engine, tasks: TaskSet, settings: Settings) -> None:
        self._engine = engine
        self._tasks = tasks
        self._settings = settings
        self._prefill_s = self._decode_s = 0.0

    def run(self, item: RequestItem) -> Result:
        """What a worker would write for ``item``; a text that the task fails on gives a failed result."""
        [name] = item.tasks
        self._prefill_s = self._decode_s = 0.0
        began = time.monotonic()
        answer: Answer | None = None
        error: MoodqError | None = None
        try:
            text, truncated = self._cut(item)
            tokens, truncated = self._encode(text, item, truncated)
            answer = self._answer(name, item, tokens)
        except MoodqError as refused:
            error, truncated = refused, None
        total_s = time.monotonic() - began
        return Result(
            id=item.id,
            status=ResultStatus.DONE if answer is not None else ResultStatus.FAILED,
            results={} if answer is None else {name: answer},
            error=None if error is None else ItemError(code=str(error.code), message=error.message),
            model=self._engine.info.ref,
            timings_ms=Timings(
                queue=0.0,
                batch=0.0,
                prefill=round(self._prefill_s * 1000, 3),
                decode=round(self._decode_s * 1000, 3),
                total=round(total_s * 1000, 3),
            ),
            worker="",
            attempt=1,
            finished_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            truncated=truncated,
            revisions=None if answer is None else {name: self._tasks.revision_of(name)},
        )

    def _cut(self, item: RequestItem) -> tuple[str, Truncated | None]:
        limit = self._settings.max_text_chars  # what may not be cut was refused before
        if len(item.text) <= limit:
            return item.text, None
        return item.text[:limit], Truncated(characters=Cut(kept=limit, of=len(item.text)))

    def _encode(
        self, text: str, item: RequestItem, truncated: Truncated | None
    ) -> tuple[list[int], Truncated | None]:
        [tokens] = self._engine.encode([text])
        limit = self._settings.max_text_tokens
        if len(tokens) <= limit:
            return tokens, truncated
        if (item.long_text or self._settings.long_text) == "refuse":
            raise BadInput(
                f"text has {len(tokens)} tokens, the limit is {limit}; shorten or split it, or raise "
                "MOODQ_MAX_TEXT_TOKENS",
                code=ErrorCode.TEXT_TOO_LONG,
            )
        characters = truncated.characters if truncated else None
        return tokens[:limit], Truncated(characters=characters, tokens=Cut(kept=limit, of=len(tokens)))

    def _answer(self, name: str, item: RequestItem, tokens: Sequence[int]) -> Answer:
        lang = item.lang or detect_lang(item.text)
        task = self._tasks[name]
        if not isinstance(task, WriteTask):
            return self._judge(name, lang, item, tokens)
        label = None
        if isinstance(task, GenerateTask) and task.after:
            steering = self._judge(task.after, lang, item, tokens)
            label = steering.best if isinstance(steering, LabelScores) else None
        return self._write(task, Generation(0, name, lang, label, tokens, self._tasks))

    def _judge(self, name: str, lang: Lang, item: RequestItem, tokens: Sequence[int]) -> Judgement:
        began = time.monotonic()
        found: Judgement
        if isinstance(self._tasks[name], RerankTask):
            documents = self._engine.encode(item.documents or ())
            found = self._engine.rerank(name, lang, tokens, documents, of=self._tasks)
        else:
            choices = item.labels or ()
            [[found]] = self._engine.label([name], lang, [tokens], choices, of=self._tasks)
        self._prefill_s += time.monotonic() - began
        if not found.finite:
            raise ModelError("the model gave no finite number", code=ErrorCode.ENGINE_FAILED)
        return found

    def _write(self, task: WriteTask, generation: Generation) -> Writing:
        began = time.monotonic()
        self._engine.admit([generation])
        joined = time.monotonic()
        self._prefill_s += joined - began
        text = ""
        while True:
            for event in self._engine.step():
                if event.error is not None:
                    raise ModelError(event.error, code=ErrorCode.ENGINE_FAILED)
                text += event.text
                if event.finish_reason is None:
                    continue
                self._decode_s += time.monotonic() - joined
                if isinstance(task, GenerateTask):
                    text = text[
                        : to_show(
                            text,
                            0,
                            tokens=event.tokens,
                            max_tokens=task.max_new_tokens,
                            finish_reason=event.finish_reason,
                        )
                    ]
                return written(task, text.strip(), event)
