"""What one round of delivery adds to the metrics: gathered first, then counted once for each series."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from moodq_config.answers import ChosenLabel, LabelScores, LabelSet
from moodq_config.contracts import Timings
from moodq_worker.items import Item
from moodq_worker.metrics import Metrics

#: Queue, task, outcome and error code of items.
Key = tuple[str, str, str, str]


def count_round(metrics: Metrics, items: Sequence[Item], timings: Sequence[Timings]) -> None:
    """Count items that have their outcome."""
    outcomes: defaultdict[Key, list[Timings]] = defaultdict(list)
    labels: Counter[tuple[str, str]] = Counter()
    confidences: defaultdict[str, list[float]] = defaultdict(list)
    lookups: Counter[tuple[str, str]] = Counter()
    traced: dict[Key, tuple[float, str]] = {}
    for item, spent in zip(items, timings, strict=True):
        if item.told:
            continue
        if item.error is not None:
            for task in list(item.results) or ["none"]:
                outcomes[item.queue, task, "failed", str(item.error.code)].append(spent)
        elif item.request is not None:
            for task in item.request.tasks:
                outcomes[item.queue, task, "done", ""].append(spent)
                if item.trace_id is not None:
                    key, slow = (item.queue, task, "done", ""), (spent.total / 1000, item.trace_id)
                    traced[key] = max(slow, traced.get(key, slow))
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
        metrics.count_items(*key, all_spent, traced.get(key))
    for (task, label), count in labels.items():
        metrics.count_labels(task, label, count)
    for task, probabilities in confidences.items():
        metrics.confidence.labels(task).observe_many(probabilities)
    for (task, outcome), count in lookups.items():
        metrics.count_lookups(task, outcome, count)
