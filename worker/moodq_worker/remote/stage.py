"""The hand-off in the loop: which tasks of a text go to the endpoint, and what becomes of the answers.

The peer of ``labels`` and ``replies``. ``next_task``, ``send`` and ``take_answers`` are called from the
engine's thread and never wait; threads of the stage's own do the asking.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from redis import Redis
from redis.exceptions import RedisError

from moodq_config.answers import GeneratedText, LabelScores
from moodq_config.contracts import MadeBy
from moodq_config.errors import ConfigError
from moodq_config.settings import Settings
from moodq_config.tasks import ChooseTask, GenerateTask, LabelTask, TaskSet
from moodq_worker.items import Item
from moodq_worker.metrics import Metrics
from moodq_worker.remote.breaker import Breaker
from moodq_worker.remote.budget import Budget
from moodq_worker.remote.client import Outcome, RemoteClient, RemoteError
from moodq_worker.remote.question import Question, RemoteAnswer

log = logging.getLogger(__name__)

KINDS = (LabelTask, ChooseTask, GenerateTask)
#: Outcomes that say the endpoint is not well; a wrong answer only says that the model is not good.
UNWELL: frozenset[Outcome] = frozenset({"timeout", "unreachable", "refused", "failed", "garbage", "internal"})


@dataclass(frozen=True, slots=True)
class _Asked:
    item: Item
    question: Question
    answer: RemoteAnswer | None = None
    began: float = 0.0
    seconds: float = 0.0


class HandOff:
    """``answered`` wakes the loop, which then calls ``take_answers``."""

    def __init__(
        self, settings: Settings, tasks: TaskSet, metrics: Metrics, client: RemoteClient, budget: Budget
    ) -> None:
        for name in settings.remote_tasks:
            if name not in tasks or not isinstance(tasks[name], KINDS):
                known = ", ".join(sorted(one for one in tasks if isinstance(tasks[one], KINDS)))
                raise ConfigError(f"MOODQ_REMOTE_TASKS: {name!r} cannot be handed over; these can: {known}")
        self._settings = settings
        self._metrics = metrics
        self._client = client
        self._budget = budget
        self._breaker = Breaker(
            failures=settings.remote_failures,
            pause_s=settings.remote_pause_s,
            changed=lambda is_open: metrics.remote_breaker_open.set(is_open),
        )
        host = urlsplit(settings.remote_url or "").netloc
        self._made_by = MadeBy(model=settings.remote_model or "", host=host)
        self._todo: queue.SimpleQueue[_Asked] = queue.SimpleQueue()
        self._answers: deque[_Asked] = deque()
        self._in_hand = 0
        self.answered: Callable[[], None] = lambda: None
        self._show_budget()

    def start(self) -> None:
        for number in range(self._settings.remote_concurrency):
            threading.Thread(target=self._ask_for_ever, name=f"remote-{number}", daemon=True).start()

    # -- the engine's thread ------------------------------------------------------------------------------

    def next_task(self, item: Item) -> str | None:
        """The next task of ``item`` that is to be asked there, none of them twice."""
        settings = self._settings
        for name in item.labels_todo:
            if self._chosen(name, item):
                return name
        if item.labels_todo:
            return None
        for name, found in item.scores.items():
            if (
                isinstance(found, LabelScores)
                and found.probability < settings.remote_below_probability
                and name in item.results
                and self._may(name, item)
            ):
                return name
        if item.generates_todo and self._chosen(item.generates_todo[0], item):
            return item.generates_todo[0]
        return None

    def send(self, item: Item, name: str) -> bool:
        """Have ``name`` of ``item`` asked; False when too many wait, and the model here must do it."""
        item.handed_over.add(name)
        if self._in_hand >= self._settings.remote_concurrency + self._settings.remote_waiting:
            self._count(name, "busy")
            return False
        task = item.tasks[name]
        label = item.steering_label(task) if isinstance(task, GenerateTask) else None
        self._in_hand += 1
        item.job.started = True
        if item.clock.started is None:
            item.clock.started = time.monotonic()
        earlier = item.earlier if name in item.answering else ()
        question = Question(task, item.lang, item.text, label, item.choices(name), earlier)
        self._todo.put(_Asked(item, question))
        return True

    def take_answers(self) -> list[tuple[Item, str, str | None]]:
        """Items that came back, each with its task and the text that was written for it, if any. What was
        not answered is left for the model here."""
        back = []
        while self._answers:
            asked = self._answers.popleft()
            self._in_hand -= 1
            item, name, answer = asked.item, asked.question.task.name, asked.answer
            item.clock.remote_s = (item.clock.remote_s or 0.0) + asked.seconds
            if item.trace is not None:
                item.trace.note("remote", asked.began, asked.seconds, name)
            written = None
            if answer is not None and item.error is None:
                item.take_remote(name, answer, self._made_by)
                taken = isinstance(answer, GeneratedText) and item.texts.get(name) is answer
                written = answer.text if isinstance(answer, GeneratedText) and taken else None
            back.append((item, name, written))
        return back

    def _chosen(self, name: str, item: Item) -> bool:
        over = self._settings.remote_over_chars
        long = bool(over) and len(item.text) > over
        return (long or name in self._settings.remote_tasks) and self._may(name, item)

    def _may(self, name: str, item: Item) -> bool:
        return name not in item.handed_over and isinstance(item.tasks[name], KINDS)

    # -- threads of its own -------------------------------------------------------------------------------

    def _ask_for_ever(self) -> None:
        while True:
            asked = self._todo.get()
            began = time.monotonic()
            answer: RemoteAnswer | None = None
            if asked.item.error is None:
                answer, outcome = self._ask(asked.question)
                self._count(asked.question.task.name, outcome)
            spent = time.monotonic() - began
            self._answers.append(_Asked(asked.item, asked.question, answer, began, spent))
            self.answered()

    def _ask(self, question: Question) -> tuple[RemoteAnswer | None, Outcome]:
        if not self._breaker.allows():
            return None, "breaker_open"
        outcome: Outcome = "internal"
        answer: RemoteAnswer | None = None
        try:
            if not self._budget.take():
                outcome = "budget"
                return None, outcome
            answer = self._completed(question)
            outcome = "done"
        except RemoteError as error:
            outcome = error.outcome
        except RedisError as error:
            outcome = "budget"  # nobody knows what is left of it
            log.warning("remote endpoint not asked: the budget is in Redis: %s", type(error).__name__)
        except Exception as error:
            log.error("remote endpoint: %s", type(error).__name__, exc_info=error)
        finally:
            self._breaker.went(None if outcome == "budget" else outcome not in UNWELL)
            self._show_budget()
        return answer, outcome

    def _completed(self, question: Question) -> RemoteAnswer:
        logprobs = not isinstance(question.task, GenerateTask)
        with self._metrics.remote_time.time():
            completion = self._client.complete(question.messages(), question.max_tokens, logprobs=logprobs)
        try:
            self._budget.spent(completion.total_tokens)
        except RedisError as error:
            log.warning("tokens of the remote endpoint not counted: %s", type(error).__name__)
        return question.answer(completion)

    def _count(self, task: str, outcome: str) -> None:
        self._metrics.remote_requests.labels(task, outcome).inc()

    def _show_budget(self) -> None:
        for unit, left in self._budget.left.items():
            self._metrics.remote_budget_left.labels(unit).set(left)


def build_hand_off(settings: Settings, tasks: TaskSet, metrics: Metrics, connection: Redis) -> HandOff | None:
    """The hand-off that the settings describe; None without a URL. Raises ``ConfigError``."""
    if settings.remote_url is None or settings.remote_model is None:
        return None
    key = settings.remote_api_key
    client = RemoteClient(
        settings.remote_url,
        settings.remote_model,
        key.get_secret_value() if key else None,
        timeout_s=settings.remote_timeout_s,
        logprobs=settings.remote_logprobs,
    )
    budget = Budget(
        connection, requests=settings.remote_requests_per_day, tokens=settings.remote_tokens_per_day
    )
    return HandOff(settings, tasks, metrics, client, budget)
