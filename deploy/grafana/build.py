"""Writes the dashboards' JSON from ``service``, ``workers`` and ``quality``.

``python deploy/grafana/build.py``; ``--check`` only compares. Edit those, not Grafana: a dashboard
provisioned from a file is read-only there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from panels import DATASOURCE, Dashboard, Panel
from quality import QUALITY
from service import SERVICE
from workers import WORKERS

FOLDER = Path(__file__).parent / "dashboards"
DASHBOARDS = (SERVICE, WORKERS, QUALITY)


def render(dashboard: Dashboard) -> str:
    """The dashboard as Grafana's JSON."""
    document = {
        "uid": f"moodq-{dashboard.name}",
        "title": dashboard.title,
        "description": dashboard.about,
        "tags": ["moodq"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "refresh": "15s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
                *dashboard.variables,
            ]
        },
        "links": [{"type": "dashboards", "tags": ["moodq"], "title": "moodq", "asDropdown": True}],
        "panels": list(_panels(dashboard)),
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _panels(dashboard: Dashboard) -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for title, panels in dashboard.rows.items():
        number += 1
        yield {
            "id": number,
            "type": "row",
            "title": title,
            "collapsed": False,
            "gridPos": {"h": 1, "w": 24, "x": 0, "y": y},
            "panels": [],
        }
        y += 1
        x, height = 0, 0
        for panel in panels:
            if x + panel.width > 24:
                x, y, height = 0, y + height, 0
            number += 1
            tall = 4 if panel.kind == "stat" else 8
            yield _panel(panel, number, {"h": tall, "w": panel.width, "x": x, "y": y})
            x, height = x + panel.width, max(height, tall)
        y += height


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    custom = {"fillOpacity": 25 if panel.stack else 8, "showPoints": "never", "lineWidth": 1}
    if panel.stack:
        custom["stacking"] = {"mode": "normal"}
    found: dict[str, Any] = {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                **({"custom": custom} if panel.kind == "timeseries" else {}),
            },
            "overrides": [],
        },
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": DATASOURCE,
                "expr": query,
                "legendFormat": legend or "__auto",
                **({"instant": True, "format": "table"} if panel.kind == "table" else {}),
            }
            for index, (legend, query) in enumerate(panel.queries.items())
        ],
    }
    if panel.kind == "timeseries":
        found["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    elif panel.kind == "stat":
        found["options"] = {
            "reduceOptions": {"calcs": ["lastNotNull"]},
            "colorMode": "none",
            "graphMode": "area",
        }
    return found


def main() -> int:
    stale = []
    for dashboard in DASHBOARDS:
        path, text = FOLDER / f"{dashboard.name}.json", render(dashboard)
        if "--check" in sys.argv[1:]:
            stale += [] if path.is_file() and path.read_text("utf-8") == text else [path.name]
        else:
            path.write_text(text, "utf-8")
    if stale:
        sys.stderr.write(f"not as build.py makes them: {', '.join(stale)}; run deploy/grafana/build.py\n")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
