"""What a run tells while it goes: progress, windows and alerts on standard error, metrics, the webhook."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Literal

import click

from moodq_config.contracts import Result
from moodq_config.errors import ConfigError, ErrorCode
from moodq_config.printable import printable
from moodq_producer.stream.alerts import Alert
from moodq_producer.stream.webhook import Outcome, Webhook
from moodq_producer.stream.windows import Shares, Watch

if TYPE_CHECKING:
    from moodq_producer.stream.metrics import FollowMetrics

#: Seconds between two lines of progress.
TOLD_EVERY_S = 10.0
#: Seconds that what waits for the webhook may take at the end.
WEBHOOK_END_S = 6.0


class Watching:
    """``unit``: of the lag, which ``lag`` holds by source as it was last measured. Of one event loop."""

    def __init__(
        self,
        watches: Sequence[Watch],
        alerts: Sequence[Alert],
        *,
        unit: Literal["bytes", "entries"],
        quiet: bool = False,
        webhook: str | None = None,
    ) -> None:
        self.lag: dict[str, int] = {}
        self._watches = watches
        self._alerts = alerts
        self._unit = unit
        self._quiet = quiet
        self._metrics: FollowMetrics | None = None
        self._webhook = Webhook(webhook, self._posted) if webhook is not None else None
        self._counts: Counter[str] = Counter()
        self._shares = Shares()
        self._told_at = time.monotonic()

    def serve(self, host: str, port: int) -> None:
        """Offer the metrics. Raises ``ConfigError`` (not_installed), ``Unavailable`` (port_taken)."""
        try:
            from moodq_producer.stream.metrics import FollowMetrics
        except ModuleNotFoundError:
            raise ConfigError(
                "--metrics-port needs prometheus_client; install it with: pip install 'moodq[follow]'",
                code=ErrorCode.NOT_INSTALLED,
            ) from None
        self._metrics = FollowMetrics(self._unit)
        for alert in self._alerts:
            self._metrics.alert_firing.labels(alert.rule.text).set(0)
        port = self._metrics.serve(host, port)
        if not self._quiet:
            _say(f"metrics at http://{host}:{port}/metrics")

    def seen(self, result: Result) -> None:
        """``result`` is written."""
        now = time.monotonic()
        outcome = "failed" if result.error is not None else "done"
        self._counts[outcome] += 1
        if self._metrics is not None:
            self._metrics.records.labels(outcome).inc()
        self._shares.add(result.results)
        for watch in self._watches:
            watch.add(now, result.results)
        for alert in self._alerts:
            alert.add(now, result.results)

    def step(self, now: float) -> None:
        """Tell what there is to tell at ``now``, of the monotonic clock."""
        if self._metrics is not None:
            for source, behind in self.lag.items():
                self._metrics.lag.labels(source).set(behind)
        for watch in self._watches:
            if (shares := watch.step(now)) is not None:
                _say(f"{_clock()} last {watch.window.text}: {shares.told()}")
                if self._metrics is not None:
                    self._metrics.window(watch.window.text, shares)
        for alert in self._alerts:
            if (event := alert.step(now)) is not None:
                _say(f"{_clock()} alert {event.text}")
                if self._webhook is not None:
                    self._webhook.post({**event.as_dict(), "at": datetime.now().astimezone().isoformat()})
                if self._metrics is not None:
                    self._metrics.alert_firing.labels(alert.rule.text).set(alert.firing)
        if not self._quiet and now - self._told_at >= TOLD_EVERY_S:
            self._tell(now)

    def close(self) -> None:
        """Blocks, while the last alerts are posted."""
        if self._webhook is not None:
            self._webhook.close(WEBHOOK_END_S)

    def _tell(self, now: float) -> None:
        """What was written since it was told last; nothing when that is nothing."""
        count = self._counts.total()
        if count:
            behind = sum(self.lag.values())
            failed = f"; {self._counts['failed']:,} failed" if self._counts["failed"] else ""
            speed = count / (now - self._told_at)
            _say(
                f"{_clock()} {count:,} records, {speed:,.0f}/s; {self._shares.told()}{failed}; "
                f"{behind:,} {self._unit} behind"
            )
        self._told_at = now
        self._counts.clear()
        self._shares = Shares()

    def _posted(self, outcome: Outcome) -> None:
        """From the webhook's thread."""
        if self._metrics is not None:
            self._metrics.webhooks.labels(outcome).inc()


def _say(line: str) -> None:
    click.echo(printable(f"moodq: {line}"), err=True)


def _clock() -> str:
    return datetime.now().strftime("%H:%M:%S")
