"""The worker's Prometheus metrics: one registry, built at the edge and passed down.

Seconds everywhere, bounded labels only. Where vLLM has a name its suffix is used, so dashboards port;
``docs/metrics.md`` lists them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Info

from moodq_config.contracts import Timings
from moodq_config.errors import NEVER_RETRIED, TO_LOOK_AT
from moodq_config.tasks import TaskSet
from moodq_worker.cost import CostMeter
from moodq_worker.engine import ModelInfo
from moodq_worker.histogram import Histogram, Series
from moodq_worker.process_metrics import ProcessCollector

#: Seconds: from one short forward pass to minutes of waiting.
LATENCY_BUCKETS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.2,
    0.35,
    0.5,
    0.75,
    1,
    1.5,
    2.5,
    5,
    10,
    20,
    40,
    60,
    120,
    300,
)
SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)
#: Probabilities of the label given: fine where a sure model's answers are.
CONFIDENCE_BUCKETS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
ATTEMPT_BUCKETS = (1, 2, 3, 5, 10, 20)
#: What items may fail with.
ITEM_CODES = sorted(TO_LOOK_AT | NEVER_RETRIED)
JOB_OUTCOMES = ("done", "failed", "retried", "taken_over")


class Metrics:
    """Every metric by attribute; ``registry`` is what ``/metrics`` exposes."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def histogram(
            name: str, text: str, labels: tuple[str, ...] = (), buckets: Sequence[float] = LATENCY_BUCKETS
        ) -> Histogram:
            return Histogram(f"moodq_{name}", text, labels, buckets=buckets, registry=self.registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"moodq_{name}", text, labels, registry=self.registry)

        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(f"moodq_{name}", text, labels, registry=self.registry)

        by_task, by_queue_and_task = ("task",), ("queue", "task")
        self.queue_time = histogram("request_queue_time_seconds", "Enqueue to claim", by_queue_and_task)
        self.batch_wait = histogram("request_batch_wait_seconds", "Claim to the first forward pass", by_task)
        self.prefill_time = histogram(
            "request_prefill_time_seconds", "Forward passes over new tokens", by_task
        )
        self.decode_time = histogram("request_decode_time_seconds", "First to last token of a reply", by_task)
        self.e2e_latency = histogram(
            "e2e_request_latency_seconds", "Enqueue to the result's writing", by_queue_and_task
        )
        self.first_token = histogram(
            "time_to_first_token_seconds", "Enqueue to a reply's first token", by_queue_and_task
        )
        self.inter_token = histogram("inter_token_latency_seconds", "Between tokens of a reply")
        self.result_write = histogram("result_write_seconds", "Writing the results of one round")
        self.batch_items = histogram("batch_items", "Texts of a batch", by_task, SIZE_BUCKETS)
        self.batch_tokens = histogram("batch_tokens", "New tokens of a batch", by_task, SIZE_BUCKETS)
        self.batch_limit = gauge("batch_token_limit", "New tokens of a batch at most")
        self.running = gauge("num_requests_running", "Texts in the decode batch")
        self.waiting = gauge("num_requests_waiting", "Texts claimed and not started")
        self.prompt_tokens = counter("prompt_tokens", "Tokens prefilled, cached prefixes not counted")
        self.generation_tokens = counter("generation_tokens", "Tokens generated")
        self.prefix_queries = counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache")
        self.prefix_hits = counter("prefix_cache_hits", "Prompt tokens found in the prefix cache")
        self.items = counter(
            "items", "Items by outcome (done, silenced, failed) and code", ("task", "outcome", "code")
        )
        self.jobs = counter(
            "jobs", "Jobs by outcome: done, failed, retried, taken_over", ("queue", "outcome")
        )
        self.attempts = histogram(
            "job_attempts", "How often an ended job had been started", ("queue",), ATTEMPT_BUCKETS
        )
        self.labels = counter("labels", "Labels given", ("task", "label"))
        self.routed = counter("routed", "Messages that a rule has sent to people", ("route",))
        self.confidence = histogram(
            "label_confidence", "Probability of the label given", by_task, CONFIDENCE_BUCKETS
        )
        self.cache_lookups: Counter = counter(
            "result_cache_lookups",
            "Answers looked up by outcome: exact, template, pinned, miss",
            ("task", "outcome"),
        )
        self.tasks_reloads = counter(
            "tasks_reloads", "Saved changes of the tasks file: changed, refused", ("outcome",)
        )
        self.remote_requests: Counter = counter(
            "remote_requests", "Tasks for the remote endpoint, by outcome", ("task", "outcome")
        )
        self.remote_time = histogram("remote_request_seconds", "One request to the remote endpoint")
        self.remote_breaker_open = gauge("remote_breaker_open", "1: the remote endpoint is left alone")
        self.remote_budget_left: Gauge = gauge(
            "remote_budget_left", "What is left of the day's budget", ("unit",)
        )
        self.engine_seconds = counter("engine_seconds", "Time in the engine: prefill, decode", ("stage",))
        self.ready = gauge("worker_ready", "1: warmed up and taking work")
        self.turn_age = gauge("loop_turn_age_seconds", "Since the loop, or a pass of the engine, last began")
        self.cost = CostMeter(self.engine_seconds)
        # Looking a child up by its labels costs as much as counting with it.
        self._of_item = cache(self._find_item)
        self._of_lookup: Callable[[str, str], Counter] = cache(self.cache_lookups.labels)
        self._of_label: Callable[[str, str], Counter] = cache(self.labels.labels)
        self._model = Info("moodq_model", "The loaded model", registry=self.registry)
        self._tasks = Info("moodq_tasks", "The tasks in force", registry=self.registry)
        self.registry.register(ProcessCollector())

    def count_prefill(self, tokens: int, cached: int) -> None:
        """``tokens`` were computed for a text, ``cached`` more came from its prompt's KV cache."""
        self.prompt_tokens.inc(tokens)
        self.prefix_queries.inc(cached + tokens)
        self.prefix_hits.inc(cached)

    def count_items(
        self,
        queue: str,
        task: str,
        outcome: str,
        code: str,
        timings: Sequence[Timings],
        traced: tuple[Timings, str] | None = None,
    ) -> None:
        """Items of one queue, task and outcome that have it now. ``traced``: the times of one of them and the
        id of its trace, shown beside its buckets."""
        items, total, waited, batch = self._of_item(queue, task, outcome, code)
        items.inc(len(timings))
        for series, name in ((total, "total"), (waited, "queue"), (batch, "batch")):
            shown = None if traced is None else (getattr(traced[0], name) / 1000, traced[1])
            series.observe_many([getattr(one, name) / 1000 for one in timings], shown)

    def count_labels(self, task: str, label: str, count: int) -> None:
        self._of_label(task, label).inc(count)

    def count_lookups(self, task: str, outcome: str, count: int) -> None:
        self._of_lookup(task, outcome).inc(count)

    def count_taken_over(self, jobs: Mapping[str, int]) -> None:
        """Jobs of dead workers that were put back, by queue."""
        for queue, count in jobs.items():
            self.jobs.labels(queue, "taken_over").inc(count)

    def begin(self, queues: Sequence[str]) -> None:
        """Let what is counted rarely begin at 0: an increase from nothing to 1 is none to Prometheus."""
        for queue in queues:
            for outcome in JOB_OUTCOMES:
                self.jobs.labels(queue, outcome)
        for code in ITEM_CODES:
            self.items.labels("none", "failed", code)
        for outcome in ("changed", "refused"):
            self.tasks_reloads.labels(outcome)

    def _find_item(
        self, queue: str, task: str, outcome: str, code: str
    ) -> tuple[Counter, Series, Series, Series]:
        return (
            self.items.labels(task, outcome, code),
            self.e2e_latency.labels(queue, task),
            self.queue_time.labels(queue, task),
            self.batch_wait.labels(task),
        )

    def describe_model(self, info: ModelInfo) -> None:
        self._model.info(
            {
                "id": info.ref.id,
                "revision": info.ref.revision,
                "precision": info.ref.precision,
                "device": info.device,
                "threads": str(info.threads),
                "parameters": str(info.parameters),
            }
        )

    def describe_tasks(self, tasks: TaskSet) -> None:
        self._tasks.info({"revision": tasks.revision})
