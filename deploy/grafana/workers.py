"""What each worker does with its time and memory."""

from __future__ import annotations

from panels import DATASOURCE, Dashboard, Panel, rate

ONE = '{instance=~"$instance"}'
OF_JOB = '{job="moodq-workers",instance=~"$instance"}'

WORKERS = Dashboard(
    "workers",
    "moodq: workers",
    "What each worker does with its time and memory.",
    {
        "Engine": [
            Panel(
                "Engine busy",
                "percentunit",
                {"{{instance}} {{stage}}": rate(f"moodq_engine_seconds_total{ONE}", "instance, stage")},
                "Share of the time: near 1 the engine is the limit, far below it the queue is.",
            ),
            Panel(
                "Items",
                "ops",
                {"{{instance}}": rate('moodq_items_total{instance=~"$instance",outcome="done"}', "instance")},
            ),
            Panel(
                "Tokens",
                "ops",
                {
                    "{{instance}} prefilled": rate(f"moodq_prompt_tokens_total{ONE}", "instance"),
                    "{{instance}} generated": rate(f"moodq_generation_tokens_total{ONE}", "instance"),
                },
            ),
            Panel(
                "Texts of a label batch (mean)",
                "none",
                {
                    "{{instance}}": f"{rate(f'moodq_batch_items_sum{ONE}', 'instance')} / "
                    f"{rate(f'moodq_batch_items_count{ONE}', 'instance')}"
                },
            ),
            Panel(
                "Label batches filled",
                "percentunit",
                {
                    "{{instance}}": f"{rate(f'moodq_batch_tokens_sum{ONE}', 'instance')} / "
                    f"{rate(f'moodq_batch_tokens_count{ONE}', 'instance')} / "
                    f"max by (instance) (moodq_batch_token_limit{ONE})"
                },
                "Tokens of a batch by the most it may have.",
            ),
            Panel(
                "Prompt tokens from the prefix cache",
                "percentunit",
                {
                    "{{instance}}": f"{rate(f'moodq_prefix_cache_hits_total{ONE}', 'instance')} / "
                    f"{rate(f'moodq_prefix_cache_queries_total{ONE}', 'instance')}"
                },
            ),
            Panel(
                "Texts in hand",
                "none",
                {
                    "{{instance}} decoding": f"moodq_num_requests_running{ONE}",
                    "{{instance}} waiting": f"moodq_num_requests_waiting{ONE}",
                },
            ),
            Panel(
                "Cost of a job",
                "s",
                {"{{instance}} {{queue}}": f"moodq_job_cost_seconds{OF_JOB}"},
            ),
            Panel(
                "Since the engine's last pass began",
                "s",
                {"{{instance}}": f"moodq_loop_turn_age_seconds{ONE}"},
                "A pass that does not end rises without end; the worker ends at MOODQ_HANG_TIMEOUT_S.",
            ),
        ],
        "Life": [
            Panel("Ready", "none", {"{{instance}}": f"moodq_worker_ready{ONE}"}),
            Panel(
                "Taken over and tried again",
                "ops",
                {
                    "{{queue}} {{outcome}}": rate(
                        'moodq_jobs_total{outcome=~"taken_over|retried"}', "queue, outcome"
                    )
                },
            ),
            Panel(
                "Attempts of a job (mean)",
                "none",
                {
                    "{{queue}}": f"{rate('moodq_job_attempts_sum', 'queue')} / "
                    f"{rate('moodq_job_attempts_count', 'queue')}"
                },
            ),
            Panel(
                "What is loaded",
                "none",
                {
                    "{{instance}}": f"moodq_model_info{ONE}",
                },
                kind="table",
                width=24,
            ),
        ],
        "Process": [
            Panel(
                "Memory in RAM",
                "bytes",
                {"{{instance}}": f"process_resident_memory_bytes{OF_JOB}"},
            ),
            Panel(
                "CPU cores",
                "none",
                {"{{instance}}": rate(f"process_cpu_seconds_total{OF_JOB}", "instance")},
            ),
            Panel(
                "Open files and threads",
                "none",
                {
                    "{{instance}} files": f"process_open_fds{OF_JOB}",
                    "{{instance}} threads": f"process_threads{OF_JOB}",
                },
            ),
        ],
    },
    variables=[
        {
            "name": "instance",
            "type": "query",
            "datasource": DATASOURCE,
            "query": "label_values(moodq_worker_ready, instance)",
            "refresh": 2,
            "multi": True,
            "includeAll": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        }
    ],
)
