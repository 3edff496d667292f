"""Answers that are known already: the same text, task, prompt and model need no second forward pass.

The cache lives in Redis, so that workers share it, in two hashes: what is new goes into the young one; when
that holds half of the entries allowed, it becomes the old one and the old one goes. Looking up is one HMGET
in each.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from hashlib import blake2b
from typing import Any, Generic, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError
from redis import Redis
from redis.client import Pipeline

from moodq_config.answers import (
    Answer,
    ChosenLabel,
    Extracted,
    GeneratedText,
    LabelScores,
    LabelSet,
    Ranking,
    Score,
)
from moodq_config.contracts import ModelRef
from moodq_config.memory import MAX_CACHED_ANSWER
from moodq_config.names import CACHE_OLD, CACHE_YOUNG
from moodq_config.task_kinds import (
    ChooseTask,
    ExtractTask,
    GenerateTask,
    LabelTask,
    MultilabelTask,
    RerankTask,
    ScoreTask,
    Task,
)
from moodq_config.tasks import Lang, TaskSet
from moodq_config.templates import template

Kind = Literal["exact", "template", "pinned"]
_ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)
T = TypeVar("T")

# KEYS: the young and the old hash. ARGV: entries the young one may hold, seconds they live, then fields and
# values.
_STORE = """
redis.call('HSET', KEYS[1], unpack(ARGV, 3))
if redis.call('TTL', KEYS[1]) < 0 then redis.call('EXPIRE', KEYS[1], ARGV[2]) end
if redis.call('HLEN', KEYS[1]) >= tonumber(ARGV[1]) then redis.call('RENAME', KEYS[1], KEYS[2]) end
"""
STORED_AT_ONCE = 500
#: What sums of probabilities may be off by.
ROUNDING = 1e-6


def kind_of(task: Task) -> Kind:
    """What counts as the same text."""
    return "template" if task.cache == "template" else "exact"


class ResultCache:
    """``entries``, ``ttl_s`` and the length of an answer bound it; with a ``ttl_s`` of 0 there is none."""

    def __init__(
        self, connection: Redis, tasks: TaskSet, model: ModelRef, *, entries: int, ttl_s: int
    ) -> None:
        self.on = ttl_s > 0
        self._ttl_s = ttl_s
        self._young_entries = max(1, entries // 2)
        self._store_script = connection.register_script(_STORE)
        self._tasks = tasks
        self._model = model.model_dump_json()
        self._bases: dict[tuple[str, str], blake2b] = {}

    def use_tasks(self, tasks: TaskSet) -> None:
        """These definitions are in force from now on; answers by others are not found any more."""
        self._tasks, self._bases = tasks, {}

    def key(
        self, task: str, lang: Lang, text: str, choices: Sequence[str] = (), *, of: TaskSet | None = None
    ) -> bytes | None:
        """Where the answer of ``task`` to ``text`` would be, by ``choices`` if the labels came with it; None
        when it is not kept. ``of`` is the set the task is of; None: the one in force."""
        tasks = self._tasks if of is None else of
        if not self.on or tasks[task].cache == "off":
            return None
        name = task, tasks.revision_of(task)
        if (base := self._bases.get(name)) is None:
            base = self._bases[name] = blake2b("\0".join((self._model, *name)).encode())
        digest = base.copy()
        if choices:
            digest.update("\0".join((str(len(choices)), *choices, "")).encode())
        digest.update(f"{lang}\0{template(text) if kind_of(tasks[task]) == 'template' else text}".encode())
        return digest.digest()[:16]

    @staticmethod
    def fits(found: Task, answer: Answer) -> bool:
        """Whether ``answer`` is one that the task could have given: others may write to Redis as well."""
        match answer:
            case LabelScores():
                # The labels of a ``choose`` task came with the request and are part of the key.
                labels = set(found.labels) if isinstance(found, LabelTask) else set(answer.scores)
                threshold = found.threshold if isinstance(found, LabelTask) else 0.0
                return (
                    isinstance(found, LabelTask | ChooseTask)
                    and set(answer.scores) == labels
                    and _probabilities(answer.scores.values())
                    and answer.scores != {}
                    and answer == LabelScores.of(answer.scores, threshold)
                )
            case ChosenLabel():
                return False  # chosen elsewhere; never kept
            case LabelSet():
                return (
                    isinstance(found, MultilabelTask)
                    and set(answer.scores) == set(found.labels) >= set(answer.labels)
                    and _probabilities(answer.scores.values())
                )
            case Score():
                return (
                    isinstance(found, ScoreTask)
                    and set(answer.scores) == set(found.values)
                    and min(found.values.values()) - ROUNDING
                    <= answer.score
                    <= max(found.values.values()) + ROUNDING
                )
            case Ranking():
                return (
                    isinstance(found, RerankTask)
                    and sorted(answer.ranking) == [*range(len(answer.scores))]
                    and _probabilities(answer.scores)
                )
            case GeneratedText():
                return isinstance(found, GenerateTask)
            case Extracted():
                return isinstance(found, ExtractTask)

    @staticmethod
    def ask(pipe: Pipeline, keys: Sequence[bytes]) -> None:
        """Queue the look-up of ``keys``; its two answers are for ``found``."""
        fields: Any = list(keys)
        pipe.hmget(CACHE_YOUNG, fields)
        pipe.hmget(CACHE_OLD, fields)

    @staticmethod
    def found(young: Sequence[bytes | None], old: Sequence[bytes | None]) -> list[Answer | None]:
        return [_answer(new if new is not None else aged) for new, aged in zip(young, old, strict=True)]

    def store(self, answers: Sequence[tuple[bytes, Answer]]) -> None:
        """Keep ``answers``. May raise ``RedisError``; nothing but speed is lost then."""
        for start in range(0, len(answers), STORED_AT_ONCE):
            words: list[bytes] = []
            for key, one in answers[start : start + STORED_AT_ONCE]:
                answer = one.model_dump_json().encode()
                if len(answer) <= MAX_CACHED_ANSWER:
                    words += [key, answer]
            if words:
                self._store_script([CACHE_YOUNG, CACHE_OLD], [self._young_entries, self._ttl_s, *words])


class SingleFlight(Generic[T]):
    """Texts that wait for the same answer: one of them is computed."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, list[T]] = {}

    def join(self, key: Hashable, item: T) -> bool:
        """True when the same is under way: ``item`` then comes out of ``land``. False: it is the first."""
        waiting = self._flights.get(key)
        if waiting is None:
            self._flights[key] = []
            return False
        waiting.append(item)
        return True

    def land(self, key: Hashable) -> list[T]:
        """Those that joined the first one, which has its answer, or has failed."""
        return self._flights.pop(key, [])


def _probabilities(scores: Iterable[float]) -> bool:
    return all(0.0 <= score <= 1.0 for score in scores)


def _answer(value: bytes | None) -> Answer | None:
    try:
        return None if value is None else _ANSWER.validate_json(value)
    except ValidationError:
        return None  # of another version, or damaged: compute it anew
