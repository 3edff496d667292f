"""``moodq config``: the effective settings and where each came from, secrets masked, and what they bound."""

from __future__ import annotations

import json

import click

from moodq_config.memory import MIB, MemoryBound, memory_bound
from moodq_config.printable import printable
from moodq_config.settings import ENV_PREFIX, Settings, load_settings, mask_url, origins


@click.command("config")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def command(as_json: bool) -> None:
    """Print every setting, its effective value and where that came from, and the memory of Redis they bound.

    A wrong value ends with exit code 2 and names the variable and the accepted range.
    """
    settings = load_settings()
    sources = origins(settings)
    rows = [
        (
            f"{ENV_PREFIX}{field.upper()}",
            shown_value(settings, field),
            sources[field],
            Settings.model_fields[field].description or "",
        )
        for field in Settings.model_fields
    ]
    if as_json:
        click.echo(
            json.dumps(
                {name: {"value": value, "from": source} for name, value, source, _ in rows}
                | {"redis_memory": memory_bound(settings).as_dict()},
                ensure_ascii=False,
                indent=2,
            )
        )
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("variable", "value", "from", "meaning", box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))  # as Text: a URL's [fe80::1] is no markup
    console = Console()
    console.print(table)
    console.print("\n" + memory_lines(memory_bound(settings)), markup=False, highlight=False, soft_wrap=True)


def memory_lines(bound: MemoryBound) -> str:
    """What Redis may come to hold, for a person."""

    def mib(bytes: int | None) -> str:
        return "no bound" if bytes is None else f"{bytes / MIB:,.0f} MiB"

    if bound.bound is None:
        return "Memory of Redis: no bound (MOODQ_MAX_REDIS_MB=0); it grows with what is sent within the TTLs."
    return "\n".join(
        [
            f"Memory of Redis, all of it: at most {mib(bound.bound)} (MOODQ_MAX_REDIS_MB)",
            f"  the first queue takes jobs below {mib(bound.first_queue_takes_jobs_below)}, "
            f"the others below {mib(bound.other_queues_take_jobs_below)}; above that: queue_full",
            f"  workers claim from the first below {mib(bound.first_queue_is_claimed_below)}, "
            f"from the others below {mib(bound.other_queues_are_claimed_below)}; "
            "above that they wait for results to expire",
            f"  the result cache takes at most {mib(bound.result_cache_at_most)} of it",
            f"  a short text sent alone takes {bound.text_alone:,} bytes until MOODQ_RESULT_TTL_S is over, "
            f"one of 100 in a job {bound.text_of_100_in_a_job:,}:",
            f"  so {bound.texts_alone_per_s:g} texts/s alone, or {bound.texts_of_100_in_a_job_per_s:g} "
            "in jobs of 100, can go on for ever; faster ones wait once memory is full",
        ]
    )


def shown_value(settings: Settings, field: str) -> str:
    """A setting as text, with the password of a URL masked."""
    value = getattr(settings, field)
    if value is None:
        return "(unset)"
    if field == "redis_url":
        return mask_url(value)
    if isinstance(value, dict):
        return ",".join(
            f"{name}={part if isinstance(part, str) else format(part, 'g')}" for name, part in value.items()
        )
    return ",".join(value) if isinstance(value, tuple) else str(value)
