"""The rules in ``deploy/prometheus``, evaluated by Prometheus's own ``promtool``: each alert fires when it
should, not a minute before, and not in the case that looks like it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
RULES = [ROOT / "deploy" / "prometheus" / name for name in ("recording.yml", "alerts.yml")]
RUNBOOK = ROOT / "docs" / "runbook.md"
ALERTS = {
    rule["alert"]: rule
    for group in yaml.safe_load(RULES[1].read_text("utf-8"))["groups"]
    for rule in group["rules"]
}
HOUR, DAY = 60, 24 * 60
Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """``bad`` makes the alert fire at minute ``at`` and not before; ``good`` never. Series are in promtool's
    notation, a sample a minute: ``a+bxn`` begins at a and adds b, n times."""

    at: int
    bad: Series
    good: Series


def counts(name: str, **of: str) -> Series:
    """Counters by the value of one label, ``task`` and so on as in ``name``."""
    return {name.replace("?", value): series for value, series in of.items()}


#: Alerts about drift, over a day: evaluated every ten minutes.
SLOW = {"MoodqLabelMixDrift", "MoodqConfidenceDrift"}
QUEUE = '{queue="bulk"}'
WAITING = {f"moodq_queue_depth{QUEUE}": "9x60", f"moodq_queue_workers{QUEUE}": "2x60"}
ITEMS = 'moodq_items_total{task="sentiment",outcome="?"}'.replace('outcome="?"', 'outcome="failed",code="?"')
DONE = 'moodq_items_total{task="sentiment",outcome="done",code=""}'
LABELS = 'moodq_labels_total{task="sentiment",label="?"}'


def confidence(day: float, hour: float) -> Series:
    """A day of 10 labels a minute of one mean, then an hour of another."""
    return {
        'moodq_label_confidence_sum{task="sentiment"}': (
            f"0+{10 * day}x{DAY} {10 * (day * DAY + hour)}+{10 * hour}x{2 * HOUR}"
        ),
        'moodq_label_confidence_count{task="sentiment"}': f"0+10x{DAY + 2 * HOUR}",
        LABELS.replace("?", "positive"): f"0+10x{DAY + 2 * HOUR}",
    }


def mix(day: float, hour: float, rate: float = 10) -> Series:
    """The share of one of two labels, a day long and then two hours."""
    first, then = rate * day, rate * hour
    return counts(
        LABELS,
        positive=f"0+{first}x{DAY} {first * DAY + then}+{then}x{2 * HOUR}",
        negative=f"0+{rate - first}x{DAY} {(rate - first) * DAY + rate - then}+{rate - then}x{2 * HOUR}",
    )


def latency(name: str, labels: str, le: str) -> Series:
    """60 a minute, all below ``le``."""
    return {
        f'{name}_bucket{{{labels}le="{bound}"}}': "0+60x60" if float(bound) >= float(le) else "0x60"
        for bound in ("0.5", "5", "20", "+Inf")
    }


E2E = 'queue="interactive",task="sentiment",'
CASES = {
    "MoodqRedisDown": Case(4, {"moodq_redis_up": "1 1 1 0x10"}, {"moodq_redis_up": "1 1 0 1x10"}),
    "MoodqExporterDown": Case(
        2,
        {'up{job="moodq-workers"}': "1x10"},  # no exporter is configured at all
        {'up{job="moodq-exporter"}': "1 0 1x10"},
    ),
    "MoodqNoWorkers": Case(
        1,
        {f"moodq_queue_depth{QUEUE}": "3x10", f"moodq_queue_workers{QUEUE}": "0x10"},
        {f"moodq_queue_depth{QUEUE}": "0x10", f"moodq_queue_workers{QUEUE}": "0x10"},
    ),
    "MoodqStalled": Case(
        6,
        {**WAITING, 'moodq_jobs_total{queue="bulk",outcome="done"}': "5x60", DONE: "50x60"},
        # A job of many items takes long; its items get done.
        {**WAITING, 'moodq_jobs_total{queue="bulk",outcome="done"}': "5x60", DONE: "0+9x60"},
    ),
    "MoodqAbandonedJobs": Case(
        5,
        {f"moodq_queue_abandoned_jobs{QUEUE}": "2x20"},
        {f"moodq_queue_abandoned_jobs{QUEUE}": "2 2 2 0x20"},
    ),
    "MoodqWorkerDown": Case(
        1,
        {'up{job="moodq-workers",instance="10.0.0.7:9464"}': "0x10"},
        {'up{job="moodq-workers",instance="10.0.0.7:9464"}': "0 1x10"},
    ),
    "MoodqEngineStuck": Case(
        2, {"moodq_loop_turn_age_seconds": "0 60 120 180"}, {"moodq_loop_turn_age_seconds": "0 40 0 40 0"}
    ),
    "MoodqTakeovers": Case(
        3,
        {'moodq_jobs_total{queue="bulk",outcome="taken_over"}': "0 0 0 7x20"},
        {'moodq_jobs_total{queue="bulk",outcome="done"}': "0+7x20"},
    ),
    "MoodqPaused": Case(30, {"moodq_paused": "1x60"}, {"moodq_paused": "1x29 0x30"}),
    "MoodqBacklog": Case(
        10,
        {f"moodq_queue_backlog_seconds{QUEUE}": "2000x20", f"moodq_queue_workers{QUEUE}": "3x20"},
        {f"moodq_queue_backlog_seconds{QUEUE}": "2000x20", f"moodq_queue_workers{QUEUE}": "4x20"},
    ),
    "MoodqInteractiveWaits": Case(
        2,
        {'moodq_queue_oldest_age_seconds{queue="interactive"}': "40 50 60x10"},
        {'moodq_queue_oldest_age_seconds{queue="bulk"}': "4000x10"},
    ),
    "MoodqLatencyHigh": Case(
        11,
        latency("moodq_e2e_request_latency_seconds", E2E, "20"),
        latency("moodq_e2e_request_latency_seconds", E2E, "5"),
    ),
    "MoodqQueueNearlyFull": Case(
        5,
        {f"moodq_queue_depth{QUEUE}": "900x10", "moodq_queue_limit_jobs": "1000x10"},
        {f"moodq_queue_depth{QUEUE}": "700x10", "moodq_queue_limit_jobs": "1000x10"},
    ),
    "MoodqRedisMemoryHigh": Case(
        5,
        {"moodq_redis_used_bytes": "600x10", "moodq_redis_limit_bytes": "1000x10"},
        {"moodq_redis_used_bytes": "600x10", "moodq_redis_limit_bytes": "0x10"},  # not looked at
    ),
    "MoodqResultWritesSlow": Case(
        11, latency("moodq_result_write_seconds", "", "5"), latency("moodq_result_write_seconds", "", "0.5")
    ),
    "MoodqItemsFail": Case(
        6,
        {DONE: "0+90x20", **counts(ITEMS, engine_failed="0+10x20")},
        {DONE: "0+90x20", **counts(ITEMS, empty_text="0+10x20", cancelled="0+10x20")},
    ),
    "MoodqFailedJobs": Case(
        19,
        {'moodq_queue_jobs{queue="bulk",status="failed"}': "5x18 20x50"},
        {'moodq_queue_jobs{queue="bulk",status="failed"}': "500x50"},
    ),
    "MoodqDeadlinesMissed": Case(
        11,
        {DONE: "0+90x20", **counts(ITEMS, deadline_exceeded="0+10x20")},
        {DONE: "0+90x20", **counts(ITEMS, deadline_exceeded="0+1x20")},
    ),
    "MoodqBadInput": Case(
        16,
        {DONE: "0+40x20", **counts(ITEMS, empty_text="0+30x20", unknown_task="0+30x20")},
        {DONE: "0+40x20", **counts(ITEMS, empty_text="0+10x20", engine_failed="0+60x20")},
    ),
    "MoodqLabelMixDrift": Case(DAY + 70, mix(0.5, 0.9), mix(0.5, 0.9, rate=2)),
    "MoodqConfidenceDrift": Case(DAY + 80, confidence(0.95, 0.8), confidence(0.95, 0.9)),
    "MoodqWorkersDiffer": Case(
        10,
        {
            'moodq_model_info{id="m",revision="1",precision="bf16",instance="a"}': "1x20",
            'moodq_model_info{id="m",revision="1",precision="int8",instance="b"}': "1x20",
        },
        {
            'moodq_tasks_info{revision="1",instance="a"}': "1 1 1x20",
            'moodq_tasks_info{revision="2",instance="b"}': "1 1 1 stale",
        },
    ),
    "MoodqTasksFileRefused": Case(
        2,
        {'moodq_tasks_reloads_total{outcome="refused"}': "0 0 1x20"},
        {'moodq_tasks_reloads_total{outcome="changed"}': "0 0 1x20"},
    ),
    "MoodqRemoteBreakerOpen": Case(
        5, {"moodq_remote_breaker_open": "1x20"}, {"moodq_remote_breaker_open": "1 0 1 0 1 0"}
    ),
}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Skips at a desk without it, fails in CI."""
    if shutil.which("promtool") is None:
        missing = "promtool is not installed; install it with: apt-get install prometheus"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    return subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120)


def group(name: str, series: Series, fires_at: int | None, minutes: int) -> dict[str, Any]:
    """A test group of promtool's: one alert fires at a minute and not so many before, or never."""

    def firing(minute: int, samples: list[dict[str, Any]]) -> dict[str, Any]:
        expr = f'max(ALERTS{{alertname="{name}",alertstate="firing"}})'
        return {"expr": expr, "eval_time": f"{minute}m", "exp_samples": samples}

    last = CASES[name].at
    if fires_at is None:
        checks = [firing(last + later, []) for later in (-minutes, 0, minutes)]
    else:
        checks = [firing(fires_at, [{"labels": "{}", "value": 1}])]
        checks += [firing(fires_at - minutes, [])]
    return {
        "name": f"{name} {'fires' if fires_at is not None else 'does not fire'}",
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        "promql_expr_test": checks,
    }


def test_every_alert_has_a_case() -> None:
    assert set(CASES) == set(ALERTS)


def test_prometheus_takes_the_configuration_and_the_rules() -> None:
    found = promtool("check", "config", ROOT / "deploy" / "prometheus" / "prometheus.yml")
    assert found.returncode == 0, found.stdout + found.stderr
    assert "rule files found" in found.stdout


@pytest.mark.parametrize(
    ("names", "minutes"),
    [(set(CASES) - SLOW, 1), (SLOW, 10)],
    ids=["within minutes", "within days"],
)
def test_each_alert_fires_when_it_should_and_only_then(names: set[str], minutes: int, tmp_path: Path) -> None:
    groups = [group(name, CASES[name].bad, CASES[name].at, minutes) for name in sorted(names)]
    groups += [group(name, CASES[name].good, None, minutes) for name in sorted(names)]
    document = {
        "rule_files": [str(path) for path in RULES],
        "evaluation_interval": f"{minutes}m",
        "group_eval_order": [
            group["name"] for path in RULES for group in yaml.safe_load(path.read_text("utf-8"))["groups"]
        ],
        "tests": groups,
    }
    path = tmp_path / "rules_test.yml"
    path.write_text(yaml.safe_dump(document), "utf-8")
    found = promtool("test", "rules", path)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_how_bad_it_is_and_has_its_section_in_the_runbook(name: str) -> None:
    rule = ALERTS[name]
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    sections = re.split(r"^## ", RUNBOOK.read_text("utf-8"), flags=re.MULTILINE)
    [section] = [one for one in sections if one.startswith(f"{name}\n")]
    for part in ("**Means**", "**Look at**", "**Do**"):
        assert part in section, f"{name} lacks {part}"
