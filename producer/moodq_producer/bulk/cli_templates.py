"""``moodq templates list | pin | unpin``. Only click is imported with this module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.table import Table

CONTEXT = {"help_option_names": ["-h", "--help"]}
FILE = click.Path(dir_okay=False, path_type=Path)
READ = click.Path(dir_okay=False, exists=True, path_type=Path)


@click.group(context_settings=CONTEXT)
def templates() -> None:
    """Review kinds of lines instead of lines, and decide a kind's label yourself.

    \b
    moodq templates list tagged.jsonl                     # most frequent first
    moodq templates list tagged.jsonl -o templates.csv    # edit its column `pin` …
    moodq templates pin --from templates.csv              # … and pin what is there
    moodq templates pin negative "disk 7 is full"         # any line of the kind
    moodq templates list                                  # what is pinned

    A template is a line with its numbers, addresses, ids and dates masked as <*>. Workers answer lines of a
    pinned one without the model, whatever the task's cache.
    """


@templates.command("list", context_settings=CONTEXT)
@click.argument("files", nargs=-1, type=READ)
@click.option("--task", help="Only of this task.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="Rows to show.")
@click.option("-o", "--output", type=FILE, help="Write all as a CSV file instead, with a column `pin`.")
def list_templates(files: tuple[Path, ...], task: str | None, limit: int, output: Path | None) -> None:
    """Show the templates of FILES by frequency: outputs of `moodq tag` or `moodq follow`, or CSV files of
    --templates. Without FILES show what is pinned.

    \b
    Exit codes: 0 shown; 2 a file is none of these; 4 Redis does not answer (without FILES).
    """
    from rich.console import Console

    from moodq_producer.bulk.records import read_records
    from moodq_producer.bulk.templates import Templates, read_csv, write_csv

    if files:
        counted, table = Templates(), []
        for path in files:
            if path.suffix == ".csv":
                table += [row for row in read_csv(path) if task in (None, row["task"])]
                continue
            with path.open("rb") as lines:
                for record in read_records(lines, str(path)):
                    counted.add(record.text, record.labels)
        table = counted.most_frequent(task) + table
        more = sum(counted.others.values())
    else:
        table, more = _pinned(task), 0
    if output is not None:
        with output.open("w", encoding="utf-8", newline="") as to:
            write_csv(table, to)
        click.echo(f"{len(table)} templates in {output}; put labels into its column `pin`", err=True)
    else:
        Console().print(_table(table[:limit], pinned=not files))
        if len(table) > limit:
            click.echo(f"… and {len(table) - limit} more (--limit, or -o templates.csv)", err=True)
    if more:
        click.echo(f"moodq: {more:,} rows of rare templates were not kept apart", err=True)


@templates.command(context_settings=CONTEXT)
@click.argument("label", required=False)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--task", default="sentiment", show_default=True, help="The task whose label it is.")
@click.option("--from", "source", type=READ, help="Pin what the column `pin` of this CSV file says.")
def pin(label: str | None, texts: tuple[str, ...], task: str, source: Path | None) -> None:
    """Pin LABEL to the templates of TEXTs: lines of their kind, or templates.

    \b
    Exit codes: 0 pinned; 2 wrong usage or file; 3 no such task or label; 4 Redis does not answer.
    """
    from moodq_config.settings import load_settings, server_url
    from moodq_config.tasks import load_tasks
    from moodq_producer.bulk.templates import read_csv
    from moodq_producer.connection import connect, redis_errors
    from moodq_producer.pins import make_pin, store_pins

    settings = load_settings()
    tasks = load_tasks(settings.tasks_file)
    if source is not None:
        if label is not None:
            raise click.UsageError("--from goes without LABEL and TEXT")
        asked = [
            (row["task"], row["template"], row["pin"].strip())
            for row in read_csv(source)
            if row["pin"].strip()
        ]
    elif label is None or not texts:
        raise click.UsageError('name a label and a line, e.g.: moodq templates pin negative "disk 7 is full"')
    else:
        asked = [(task, text, label) for text in texts]
    pins = [make_pin(tasks, *one) for one in asked]
    with connect(settings) as connection, redis_errors(server_url(settings)):
        store_pins(connection, pins)
    click.echo(f"pinned: {len(pins)}; workers heed it from their next job on")


@templates.command(context_settings=CONTEXT)
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--task", default="sentiment", show_default=True, help="The task of the pinned label.")
@click.option("--all", "everything", is_flag=True, help="Unpin all, of every task.")
@click.pass_context
def unpin(ctx: click.Context, texts: tuple[str, ...], task: str, everything: bool) -> None:
    """Let the model decide again about the templates of TEXTs.

    \b
    Exit codes: 0 unpinned; 2 wrong usage; 3 one of them was not pinned; 4 Redis does not answer.
    """
    from moodq_config.settings import load_settings, server_url
    from moodq_config.templates import template
    from moodq_producer.connection import connect, redis_errors
    from moodq_producer.pins import drop_pins, stored_pins

    if bool(texts) == everything:
        raise click.UsageError("name lines of the templates to unpin, or --all")
    settings = load_settings()
    with connect(settings) as connection, redis_errors(server_url(settings)):
        asked = (
            [(one.task, one.template) for one in stored_pins(connection)]
            if everything
            else [(task, template(text.strip())) for text in texts]
        )
        dropped = drop_pins(connection, asked) if asked else 0
    click.echo(f"unpinned: {dropped}")
    ctx.exit(0 if dropped == len(asked) else 3)


def _pinned(task: str | None) -> list[dict[str, Any]]:
    from moodq_config.settings import load_settings, server_url
    from moodq_producer.connection import connect, redis_errors
    from moodq_producer.pins import stored_pins

    settings = load_settings()
    with connect(settings) as connection, redis_errors(server_url(settings)):
        found = stored_pins(connection)
    return [
        {"task": one.task, "pin": one.label, "template": one.template}
        for one in found
        if task in (None, one.task)
    ]


def _table(rows: list[dict[str, Any]], *, pinned: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    from moodq_config.printable import printable

    table = Table(box=None, pad_edge=False, header_style="bold")
    names = ("task", "pin", "template") if pinned else ("task", "rows", "label", "agree", "pin", "template")
    for name in names:
        table.add_column(name, justify="right" if name in {"rows", "agree"} else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(row[name]))) for name in names))
    return table
