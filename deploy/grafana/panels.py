"""What a dashboard is made of, and the queries that most panels are: rates, means, quantiles, shares.

A panel is a title, a unit of Grafana's, and queries by legend. ``$__rate_interval`` is Grafana's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """``queries`` by legend, in Grafana's ``{{label}}`` notation. ``width`` of 24 columns."""

    title: str
    unit: str
    queries: Mapping[str, str]
    about: str = ""
    kind: str = "timeseries"
    width: int = 8
    stack: bool = False


@dataclass(frozen=True)
class Dashboard:
    name: str
    title: str
    about: str
    rows: Mapping[str, Sequence[Panel]]
    variables: Sequence[Mapping[str, Any]] = field(default_factory=tuple)


def stat(title: str, unit: str, query: str, about: str = "") -> Panel:
    return Panel(title, unit, {"": query}, about, kind="stat", width=4)


def rate(series: str, by: str = "") -> str:
    return f"sum{f' by ({by})' if by else ''} (rate({series}{RATE}))"


def mean(name: str, where: str = "") -> str:
    return f"sum(rate({name}_sum{where}{RATE})) / sum(rate({name}_count{where}{RATE}))"


def quantile(share: float, name: str, where: str = "", by: str = "le") -> str:
    return f"histogram_quantile({share}, sum by ({by}) (rate({name}_bucket{where}{RATE})))"


def share(series: str, by: str, of: str) -> str:
    """The part that each ``by`` has of all of one ``of``."""
    return f"{rate(series, f'{of}, {by}')} / ignoring ({by}) group_left {rate(series, of)}"
