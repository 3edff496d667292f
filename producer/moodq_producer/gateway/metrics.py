"""The gateway's Prometheus metrics: one registry, made by the app. ``docs/metrics.md`` lists them."""

from __future__ import annotations

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: Seconds: from an answer out of memory to the longest wait.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60)


class GatewayMetrics:
    """Every metric by attribute; ``registry`` is what ``/metrics`` exposes. Labels are routes as they are
    written in the code, and statuses; never paths, ids or keys."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "moodq_gateway_requests", "Requests by status", ("route", "status"), registry=self.registry
        )
        self.latency = Histogram(
            "moodq_gateway_request_latency_seconds",
            "First byte of a request to the last of its answer; streams to their first",
            ("route",),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self.waits = Gauge("moodq_gateway_open_waits", "Waits for a result", registry=self.registry)
        self.streams = Gauge("moodq_gateway_open_streams", "Event streams", registry=self.registry)
        self.callbacks = Counter(
            "moodq_gateway_callbacks",
            "Callbacks sent by outcome: delivered, failed, refused, given_up",
            ("outcome",),
            registry=self.registry,
        )
        self._of = cache(self._find)

    def count(self, route: str, status: int, seconds: float) -> None:
        """A request has been answered."""
        requests, latency = self._of(route, status)
        requests.inc()
        latency.observe(seconds)

    def _find(self, route: str, status: int) -> tuple[Counter, Histogram]:
        return self.requests.labels(route, str(status)), self.latency.labels(route)
