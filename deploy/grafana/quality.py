"""What the model says, how sure it is, and whether that has changed."""

from __future__ import annotations

from panels import Dashboard, Panel, quantile, rate, share

UNSURE = 'moodq_label_confidence_bucket{le="0.7"}'
REFUSED = 'moodq_items_total{outcome="failed",code!~"engine_failed|engine_timeout|internal|max_attempts"}'

QUALITY = Dashboard(
    "quality",
    "moodq: quality",
    "What the model says, how sure it is, and whether that has changed.",
    {
        "Labels": [
            Panel(
                "Label mix",
                "percentunit",
                {"{{task}} {{label}}": share("moodq_labels_total", "label", of="task")},
                "Share of each label of its task.",
                width=12,
                stack=True,
            ),
            Panel(
                "Labels", "ops", {"{{task}} {{label}}": rate("moodq_labels_total", "task, label")}, width=12
            ),
            Panel(
                "Label mix, last hour beside last day",
                "percentunit",
                {
                    "{{task}} {{label}}, hour": "moodq:label_share:1h",
                    "{{task}} {{label}}, day": "moodq:label_share:1d",
                },
                width=12,
            ),
            Panel(
                "Mean confidence, last hour beside last day",
                "percentunit",
                {
                    "{{task}}, hour": "moodq:label_confidence:mean1h",
                    "{{task}}, day": "moodq:label_confidence:mean1d",
                },
                width=12,
            ),
        ],
        "Confidence": [
            Panel(
                "Probability of the label given",
                "percentunit",
                {
                    "{{task}} median": quantile(0.5, "moodq_label_confidence", by="task, le"),
                    "{{task}} lowest tenth": quantile(0.1, "moodq_label_confidence", by="task, le"),
                },
                width=12,
            ),
            Panel(
                "Labels given with less than 0.7",
                "percentunit",
                {"{{task}}": f"{rate(UNSURE, 'task')} / {rate('moodq_label_confidence_count', 'task')}"},
                width=12,
            ),
        ],
        "Answers not computed": [
            Panel(
                "Result cache",
                "percentunit",
                {"{{task}} {{outcome}}": share("moodq_result_cache_lookups_total", "outcome", of="task")},
                "Answers that were known: the same text, a text of its kind, or pinned.",
                stack=True,
            ),
            Panel(
                "Refused texts by code",
                "ops",
                {
                    "{{code}}": rate(
                        REFUSED,
                        "code",
                    )
                },
            ),
            Panel(
                "Tasks in force",
                "none",
                {"{{revision}}": "count by (revision) (moodq_tasks_info)"},
                "Workers by revision of the tasks; more than one line is a roll-out, or a mistake.",
            ),
        ],
    },
)
