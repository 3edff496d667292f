"""``moodq config``: the effective settings and where each came from, secrets masked."""

from __future__ import annotations

import json

import click

from moodq_config.settings import ENV_PREFIX, Settings, load_settings, mask_url, origins


@click.command("config")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
def command(as_json: bool) -> None:
    """Print every setting, its effective value and where that came from.

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
                {name: {"value": value, "from": source} for name, value, source, _ in rows},
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
        table.add_row(*(Text(cell) for cell in row))  # as Text: a URL's [fe80::1] is no markup
    Console().print(table)


def shown_value(settings: Settings, field: str) -> str:
    """A setting as text, with the password of a URL masked."""
    value = getattr(settings, field)
    if value is None:
        return "(unset)"
    if field == "redis_url":
        return mask_url(value)
    if isinstance(value, dict):
        return ",".join(f"{name}={part:g}" for name, part in value.items())
    return ",".join(value) if isinstance(value, tuple) else str(value)
