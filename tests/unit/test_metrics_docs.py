"""``docs/metrics.md`` lists exactly the metrics there are, with their types and labels."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client.core import Metric
from redis import Redis

from moodq_config.contracts import ModelRef
from moodq_config.settings import load_settings
from moodq_producer.exporter.collector import QueueWideCollector
from moodq_producer.exporter.reading import Reader, Reading
from moodq_producer.gateway.metrics import GatewayMetrics
from moodq_producer.stats import Stats
from moodq_producer.stream.metrics import FollowMetrics
from moodq_worker.engine import ModelInfo
from moodq_worker.metrics import Metrics
from moodq_worker.queue_metrics import QueueCollector

DOC = Path(__file__).parents[2] / "docs" / "metrics.md"


class _NoQueues(QueueCollector):
    """The collector's metric families without a server behind it."""

    def __init__(self) -> None:
        super().__init__(Redis(), [], 0, dict)

    def _used_bytes(self) -> float:
        return 0.0


class _Idle(Reader):
    """A reading of an empty Redis."""

    def read(self) -> Reading:
        return Reading(Stats({}, (), {}, paused=False), {}, used_bytes=0, left_out=0, seconds=0.0)


def _documented() -> dict[str, str]:
    row = r"^\| `((?:moodq|process)_\w+)` \| (\w+) \|"
    rows = re.findall(row, DOC.read_text("utf-8"), flags=re.MULTILINE)
    assert rows
    return dict(rows)


def _exported() -> dict[str, str]:
    metrics = Metrics()
    metrics.describe_model(ModelInfo(ModelRef(id="m", revision="r", precision="p"), "cpu", 1, 1))
    others = [*FollowMetrics().registry.collect(), *GatewayMetrics().registry.collect()]
    found: list[Metric] = [*metrics.registry.collect(), *_NoQueues().collect(), *others]
    found += QueueWideCollector(_Idle(load_settings())).collect()
    names = {}
    for family in found:
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        names[family.name + suffix] = "gauge" if family.type == "info" else family.type
    return names


def test_the_page_lists_every_metric_with_its_type_and_no_other() -> None:
    assert _documented() == _exported()


def test_the_page_names_the_labels_of_every_metric() -> None:
    page = DOC.read_text("utf-8")
    for attribute in [
        one for kind in (Metrics, FollowMetrics, GatewayMetrics) for one in vars(kind()).values()
    ]:
        names = getattr(attribute, "_labelnames", ())
        if names:
            row = next(line for line in page.splitlines() if f"`{attribute._name}" in line)
            assert ", ".join(names) in row
