"""The plan: the fewest workers whose texts are done in time, and what they and Redis need."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from moodq_config.errors import ConfigError
from moodq_config.settings import Settings
from moodq_config.tasks import TaskSet
from moodq_worker.capacity.costs import HOW_TO_MEASURE, Costs
from moodq_worker.capacity.redis_load import RedisLoad, redis_load
from moodq_worker.capacity.simulate import Outcome, TextCost, most_per_s, simulate
from moodq_worker.capacity.work import Work, work_of

#: Part of what a worker can do at most that a plan gives it: beyond it, waits grow with every ripple.
MOST_LOADED = 0.85
#: Texts of a simulation: while searching, and for the figures of the plan.
SEARCH_TEXTS, FINAL_TEXTS = 3_000, 20_000
SEARCHES = 9
MOST_WORKERS = 100_000


@dataclass(frozen=True, slots=True)
class Question:
    """``per_s`` texts a second, each with ``tasks``, 95 of 100 done within ``p95_s``."""

    per_s: float
    tasks: tuple[str, ...]
    p95_s: float
    text_tokens: float
    items_per_job: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """``workers`` is 0 when no number of them is enough; ``reason`` says why. ``alone_s``: what a text takes
    at an idle worker. ``most_per_worker_s``: texts a second of one that always has enough."""

    question: Question
    workers: int
    reason: str
    alone_s: float
    most_per_worker_s: float
    outcome: Outcome | None
    memory_mb: float
    redis: RedisLoad
    assumptions: tuple[str, ...]

    @property
    def possible(self) -> bool:
        return self.workers > 0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"possible": self.possible}


def plan(question: Question, costs: Costs, tasks: TaskSet, settings: Settings) -> Plan:
    """Raises ``BadInput`` for an unknown task, ``ConfigError`` when one of them was not measured."""
    work = work_of(tasks, question.tasks)
    cost = text_cost(question, work, costs, settings)
    alone = simulate(cost, _seldom(cost), SEARCH_TEXTS)
    most = most_per_s(cost, SEARCH_TEXTS)
    workers, outcome, reason = 0, None, ""
    if alone.p95_s > question.p95_s:
        reason = (
            f"a text takes {alone.p95_s:.2f} s at an idle worker already (95 of 100): more workers do not "
            "help; allow more time, let replies be shorter (max_new_tokens of the task), try "
            "MOODQ_PRECISION=int8, or take a faster machine"
        )
    else:
        per_worker = _per_worker(question, cost, most)
        workers = max(1, math.ceil(question.per_s / per_worker))
        if workers > MOST_WORKERS:
            workers, reason = 0, f"it would take more than {MOST_WORKERS:,} workers"
        while workers:
            outcome = simulate(cost, question.per_s / workers, FINAL_TEXTS)
            if outcome.steady and outcome.p95_s <= question.p95_s:
                break
            workers += 1  # the search looked at fewer texts
    return Plan(
        question=question,
        workers=workers,
        reason=reason,
        alone_s=alone.p50_s,
        most_per_worker_s=most,
        outcome=outcome,
        memory_mb=workers * costs.rss_bytes / 2**20,
        redis=redis_load(settings, question.per_s, question.items_per_job, _reply_tokens(cost)),
        assumptions=_assumptions(question, cost, costs, settings),
    )


def text_cost(question: Question, work: Work, costs: Costs, settings: Settings) -> TextCost:
    """What a text asks of the engine, of what was measured."""
    groups = ["+".join(group) for group in work.passes]
    missing = [name for name in groups if name not in costs.passes]
    missing += [name for name in work.writes if name not in costs.writes]
    if missing:
        names = ",".join(question.tasks)
        raise ConfigError(
            f"the cost of {', '.join(missing)} was not measured here; {HOW_TO_MEASURE} --tasks {names}"
        )
    return TextCost(
        tokens=question.text_tokens,
        passes=tuple(costs.passes[name] for name in groups),
        writes=tuple(costs.writes[name] for name in work.writes),
        batch_tokens=settings.batch_tokens or costs.batch_tokens,
        max_replies=settings.max_replies,
    )


def _per_worker(question: Question, cost: TextCost, most: float) -> float:
    """Texts a second of one worker that are done in time, the most found."""
    least, best = _seldom(cost), most * MOST_LOADED
    if _in_time(question, cost, best):
        return best
    low, high = min(least, best), best
    for _ in range(SEARCHES):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if _in_time(question, cost, middle) else (low, middle)
    return low


def _in_time(question: Question, cost: TextCost, per_s: float) -> bool:
    # Long enough for a queue that grows to grow beyond the time allowed.
    texts = min(FINAL_TEXTS, max(SEARCH_TEXTS, int(20 * per_s * question.p95_s)))
    outcome = simulate(cost, per_s, texts)
    return outcome.steady and outcome.p95_s <= question.p95_s


def _seldom(cost: TextCost) -> float:
    """A rate at which hardly any text meets another."""
    alone = sum((one.seconds(1, cost.tokens) for one in cost.passes), 0.0)
    for write in cost.writes:
        alone += write.join.seconds(1, cost.tokens) + max(write.lengths) * (write.step_s + write.row_s)
    return 0.02 / max(alone, 1e-4)


def _reply_tokens(cost: TextCost) -> float:
    return float(sum(statistics.mean(write.lengths) for write in cost.writes))


def _assumptions(question: Question, cost: TextCost, costs: Costs, settings: Settings) -> tuple[str, ...]:
    model = costs.model
    found = [
        f"costs measured {costs.measured_at} on {costs.machine}: {model.id}, {model.precision}, "
        f"{costs.threads} threads a worker, each with cores of its own",
        f"texts come at random (Poisson), all of {question.text_tokens:g} tokens, in one language, none of "
        "them cached",
        f"batches of up to {cost.batch_tokens} tokens; a worker is given at most {MOST_LOADED:.0%} of what "
        "it can do",
        "texts go to workers by chance, however busy; no worker is away (add one for each that may be)",
        f"{question.items_per_job} text(s) a job; results are kept {settings.result_ttl_s} s; Redis has "
        "a core of its own, and the costs of docs/scale.md",
    ]
    if cost.writes:
        found.insert(
            3,
            f"replies have {_reply_tokens(cost):.0f} tokens on average, as when measured, "
            f"{cost.max_replies} at once at most",
        )
    return tuple(found)


def lacking(found: Plan) -> Sequence[str]:
    """What must be changed beside the number of workers."""
    redis, lines = found.redis, []
    if redis.allowed_mb and redis.needed_mb > redis.allowed_mb:
        lines.append(
            f"MOODQ_MAX_REDIS_MB={math.ceil(redis.needed_mb)} (now {redis.allowed_mb:.0f}), or a shorter "
            "MOODQ_RESULT_TTL_S, or Client.forget after reading"
        )
    if redis.servers > 1:
        lines.append(
            f"{redis.servers} Redis servers, each with its own workers and producers (docs/scale.md), or "
            "more texts in a job"
        )
    return lines
