"""Metrics of ``moodq follow``, on a port of its own. ``docs/metrics.md`` lists them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from moodq_config.errors import ErrorCode, Unavailable
from moodq_producer.stream.windows import Shares


class FollowMetrics:
    """``unit`` of the lag: ``bytes`` of files, ``entries`` of streams."""

    def __init__(self, unit: str = "bytes") -> None:
        self.registry = CollectorRegistry()
        self.records = Counter(
            "moodq_follow_records", "Records written, by outcome", ("outcome",), registry=self.registry
        )
        self.lag_bytes = Gauge(
            "moodq_follow_lag_bytes", "Bytes of files whose results are not written", ("source",),
            registry=self.registry,
        )  # fmt: skip
        self.lag_entries = Gauge(
            "moodq_follow_lag_entries", "Stream entries whose results are not written", ("source",),
            registry=self.registry,
        )  # fmt: skip
        self.label_share = Gauge(
            "moodq_follow_label_share", "Share of a label over a window", ("window", "task", "label"),
            registry=self.registry,
        )  # fmt: skip
        self.window_items = Gauge(
            "moodq_follow_window_items", "Items of a window", ("window", "task"), registry=self.registry
        )
        self.alert_firing = Gauge(
            "moodq_follow_alert_firing", "1 while the alert fires", ("alert",), registry=self.registry
        )
        self.webhooks = Counter(
            "moodq_follow_webhooks", "Alerts posted, by outcome", ("outcome",), registry=self.registry
        )
        self._seen: set[tuple[str, str, str | None]] = set()
        self.lag = self.lag_bytes if unit == "bytes" else self.lag_entries

    def serve(self, host: str, port: int) -> int:
        """Answer ``/metrics``; returns the port. Raises ``Unavailable`` (port_taken)."""
        try:
            server, _ = start_http_server(port, host, self.registry)
        except OSError as error:
            raise Unavailable(
                f"metrics port {host}:{port} cannot be used ({error.strerror}); name another with "
                "--metrics-port",
                code=ErrorCode.PORT_TAKEN,
            ) from None
        return int(server.server_port)

    def window(self, name: str, shares: Shares) -> None:
        """The labels of a window as told last; one that is gone from it is 0."""
        self._seen |= {(name, task, label) for task, label in shares.labels}
        self._seen |= {(name, task, None) for task in shares.items}
        for window, task, seen in self._seen:
            if window == name and seen is not None:
                self.label_share.labels(window, task, seen).set(shares.of(task, seen))
            elif window == name:
                self.window_items.labels(window, task).set(shares.items[task])
