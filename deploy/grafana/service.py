"""Is everybody being answered, how soon, and if not, why."""

from __future__ import annotations

from panels import Dashboard, Panel, mean, quantile, rate, stat

E2E = "moodq_e2e_request_latency_seconds"
BROKEN = 'moodq_items_total{code=~"engine_failed|engine_timeout|internal|max_attempts"}'

SERVICE = Dashboard(
    "service",
    "moodq: service",
    "Is everybody being answered, how soon, and if not, why.",
    {
        "Now": [
            stat("Workers alive", "none", "sum(moodq_workers)"),
            stat("Items", "ops", rate('moodq_items_total{outcome="done"}')),
            stat("Jobs waiting", "none", "sum(max by (queue) (moodq_queue_depth))"),
            stat("Until the queues are empty", "s", "max(moodq:queue_drain_seconds)"),
            stat("Interactive, 95 % within", "s", quantile(0.95, E2E, '{queue="interactive"}')),
            stat(
                "Broken",
                "percentunit",
                f"({rate(BROKEN)} or vector(0)) / {rate('moodq_items_total')}",
                "Items that failed by no fault of their own.",
            ),
        ],
        "Throughput": [
            Panel(
                "Items by outcome",
                "ops",
                {"{{task}} {{outcome}}": rate("moodq_items_total", "task, outcome")},
                stack=True,
            ),
            Panel(
                "Jobs by outcome",
                "ops",
                {"{{queue}} {{outcome}}": rate("moodq_jobs_total", "queue, outcome")},
            ),
            Panel(
                "Failed items by code",
                "ops",
                {"{{code}}": rate('moodq_items_total{outcome="failed"}', "code")},
            ),
        ],
        "Queues": [
            Panel("Jobs waiting", "none", {"{{queue}}": "max by (queue) (moodq_queue_depth)"}),
            Panel(
                "Backlog",
                "s",
                {
                    "{{queue}}, one worker": "moodq:queue_backlog_seconds",
                    "{{queue}}, all of them": "moodq:queue_drain_seconds",
                },
                "Jobs waiting by the measured cost of a job.",
            ),
            Panel("Age of the oldest job", "s", {"{{queue}}": "moodq:queue_oldest_age_seconds"}),
            Panel(
                "Jobs by RQ's status",
                "none",
                {"{{queue}} {{status}}": "max by (queue, status) (moodq_queue_jobs)"},
            ),
            Panel("Workers by queue", "none", {"{{queue}}": "moodq:queue_workers"}),
            Panel(
                "Memory of Redis",
                "bytes",
                {"used": "max(moodq_redis_used_bytes)", "limit": "max(moodq_redis_limit_bytes)"},
            ),
        ],
        "Latency": [
            Panel(
                "From sending to result, interactive",
                "s",
                {
                    f"p{round(share * 100)}": quantile(share, E2E, '{queue="interactive"}')
                    for share in (0.5, 0.95, 0.99)
                },
            ),
            Panel(
                "From sending to result, p95 by queue",
                "s",
                {"{{queue}}": quantile(0.95, E2E, by="queue, le")},
            ),
            Panel(
                "Where the time goes, interactive (mean)",
                "s",
                {
                    "queue": mean("moodq_request_queue_time_seconds", '{queue="interactive"}'),
                    "batch": mean("moodq_request_batch_wait_seconds"),
                    "prefill": mean("moodq_request_prefill_time_seconds"),
                    "decode": mean("moodq_request_decode_time_seconds"),
                },
                "Batch, prefill and decode are those of all queues.",
                stack=True,
            ),
            Panel(
                "First token of a reply",
                "s",
                {
                    f"p{round(share * 100)}": quantile(share, "moodq_time_to_first_token_seconds")
                    for share in (0.5, 0.95)
                },
            ),
            Panel(
                "Between two tokens",
                "s",
                {
                    f"p{round(share * 100)}": quantile(share, "moodq_inter_token_latency_seconds")
                    for share in (0.5, 0.95)
                },
            ),
            Panel("Writing results, p95", "s", {"": quantile(0.95, "moodq_result_write_seconds")}),
        ],
    },
)
