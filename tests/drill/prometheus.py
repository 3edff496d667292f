"""Prometheus's HTTP API, and the queries of the dashboards in ``deploy/grafana``."""

from __future__ import annotations

import json
import math
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .system import RATE_INTERVAL

DASHBOARDS = Path(__file__).parents[2] / "deploy" / "grafana" / "dashboards"


@dataclass(frozen=True, slots=True)
class Query:
    """One query of a panel, with Grafana's variables filled in."""

    dashboard: str
    panel: str
    unit: str
    kind: str
    stacked: bool
    legend: str
    expr: str


def queries() -> Iterator[Query]:
    """Of every panel of every dashboard, in their order."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        for panel in json.loads(path.read_text("utf-8"))["panels"]:
            for target in panel.get("targets", ()):
                defaults = panel["fieldConfig"]["defaults"]
                yield Query(
                    dashboard=path.stem,
                    panel=panel["title"],
                    unit=defaults["unit"],
                    kind=panel["type"],
                    stacked="stacking" in defaults.get("custom", {}),
                    legend=target["legendFormat"],
                    expr=target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$instance", ".*"),
                )


class Api:
    def __init__(self, url: str) -> None:
        self._url = url

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series that have a number now."""
        found: list[dict[str, Any]] = self._get("query", query=expr)["result"]
        return [one for one in found if not math.isnan(float(one["value"][1]))]

    def over_time(self, expr: str, start: float, end: float, step: float = 1.0) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self._get("query_range", query=expr, start=start, end=end, step=step)[
            "result"
        ]
        return result

    def firing(self) -> set[str]:
        """Names of the alerts that fire."""
        found = self._get("alerts")["alerts"]
        return {one["labels"]["alertname"] for one in found if one["state"] == "firing"}

    def _get(self, path: str, **parameters: object) -> dict[str, Any]:
        url = f"{self._url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
        return data
