"""What one round of delivery adds to the metrics: gathered first, then counted once for each series."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from moodq_config.answers import ChosenLabel, LabelScores, LabelSet
from moodq_config.contracts import Timings
from moodq_worker.items import Item
from moodq_worker.metrics import Metrics

#: Queue, task, outcome and error code of items.
Key = tuple[str, str, str, str]


def count_round(metrics: Metrics, items: Sequence[Item], timings: Sequence[Timings]) -> None:
    """Count items that have their outcome."""
    outcomes: defaultdict[Key, list[Timings]] = defaultdict(list)
    slowest: dict[Key, tuple[Timings, str]] = {}  # of those that are traced
    labels: Counter[tuple[str, str]] = Counter()
    confidences: defaultdict[str, list[float]] = defaultdict(list)
    lookups: Counter[tuple[str, str]] = Counter()
    for item, spent in zip(items, timings, strict=True):
        if item.told:
            continue
        if item.route is not None and item.error is None:
            metrics.routed.labels(item.route.route).inc()
        if item.error is not None:
            code, ended = str(item.error.code), "failed"
            tasks: Iterable[str] = list(item.results) or ["none"]
        else:
            code, ended = "", "done"
            tasks = item.request.tasks if item.request is not None else ()
        silenced = item.silenced if item.error is None and item.silenced else ()
        trace_id = item.shown_trace
        for task in tasks:
            key = item.queue, task, "silenced" if task in silenced else ended, code
            outcomes[key].append(spent)
            if trace_id is not None and (key not in slowest or spent.total > slowest[key][0].total):
                slowest[key] = spent, trace_id
        for task, found in item.scores.items():
            if isinstance(found, LabelScores):
                confidences[task].append(found.probability)
            if task in item.choosing:
                continue  # labels of the request: anybody could make as many series as they like
            if isinstance(found, LabelScores | ChosenLabel):
                labels[task, found.label] += 1
            elif isinstance(found, LabelSet):
                labels.update((task, label) for label in found.labels)
        for task in item.cache_keys.keys() | item.cached.keys():
            lookups[task, item.cached.get(task, "miss")] += 1
    for key, all_spent in outcomes.items():
        metrics.count_items(*key, all_spent, slowest.get(key))
    for (task, label), count in labels.items():
        metrics.count_labels(task, label, count)
    for task, probabilities in confidences.items():
        metrics.confidence.labels(task).observe_many(probabilities)
    for (task, outcome), count in lookups.items():
        metrics.count_lookups(task, outcome, count)
