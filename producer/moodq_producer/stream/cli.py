"""``moodq follow``. Only click is imported with this module."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1)
@click.option("--stream", "streams", multiple=True, metavar="KEY", help="Follow this Redis Stream instead.")
@click.option(
    "--list", "lists", multiple=True, metavar="KEY", help="Follow this Redis list, that others RPUSH to."
)
@click.option("--group", default="moodq", show_default=True, help="Consumer group of the streams.")
@click.option("--consumer", help="Name in the group; default: host and process.")
@click.option("--claim-after", default="60s", show_default=True,
              help="Take over entries that another consumer has not touched for so long.")  # fmt: skip
@click.option(
    "--field", default="text", show_default=True, help="Field of a stream entry that holds the text."
)
@click.option("-o", "--output", type=FILE, help="Append to this file instead of standard output.")
@click.option("--to-stream", metavar="KEY", help="Write to this Redis Stream instead.")
@click.option("--max-entries", type=click.IntRange(min=1), default=100_000, show_default=True,
              help="Entries that --to-stream keeps, about.")  # fmt: skip
@click.option("--checkpoint", type=FILE, help="Where the places in the files are kept; default: beside -o.")
@click.option("--from", "begin", type=click.Choice(["end", "start"]), default="end", show_default=True,
              help="Where to begin in what is not known yet.")  # fmt: skip
@click.option("--tasks", default="sentiment", show_default=True, help="Names of tasks, separated by commas.")
@click.option("--format", "form", type=click.Choice(["lines", "jsonl"]), default="lines", show_default=True)
@click.option("--text-column", default="text", show_default=True, help="Of JSON: where it has the text.")
@click.option("--columns", default="", help="Other fields to keep in the output, separated by commas.")
@click.option("--multiline", metavar="PATTERN", help="Join lines: one that matches begins a record.")
@click.option("--multiline-pause", default="1s", show_default=True, help="A record is complete after this.")
@click.option("--lang", type=click.Choice(["zh", "en"]), help="Language of the prompts; else by the text.")
@click.option("--queue", default="bulk", show_default=True, help="Queue to send to.")
@click.option("--window", "windows", multiple=True, metavar="5m|5m/30s",
              help="Tell label shares every 5 minutes; every 30 s over the last 5 minutes.")  # fmt: skip
@click.option("--alert", "alerts", multiple=True, metavar="RULE", help="E.g. 'negative>0.4 over 5m'.")
@click.option("--webhook", metavar="URL", help="POST alerts there as JSON.")
@click.option("--metrics-port", type=click.IntRange(0, 65535),
              help="Offer Prometheus metrics here; needs: pip install 'moodq[follow]'.")  # fmt: skip
@click.option("--metrics-host", default="127.0.0.1", show_default=True)
@click.option("--drain-timeout", default="30s", show_default=True,
              help="How long what is in hand may take after SIGINT or SIGTERM.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_context
def follow(ctx: click.Context, /, **options: Any) -> None:
    """Label or rewrite what is added to FILES (names or globs), or to Redis Streams, one JSON line each.

    \b
    moodq follow /var/log/app.log -o labels.jsonl
    moodq follow 'logs/*.log' --tasks log_severity --multiline '^\\d{4}-' -o labels.jsonl
    moodq follow --stream reviews --to-stream labels --alert 'negative>0.4 over 5m' --webhook https://…
    moodq follow --list logs --format jsonl --text-column message > labels.jsonl

    Files are followed through rotation and truncation. Results are at least once: after a kill, some may be
    written again, with the same id. Redis or the workers may go away and come back. SIGINT and SIGTERM finish
    what is in hand; a second one does not wait.

    \b
    Exit codes: 0 stopped, and all that was read is written; 2 wrong usage, file or setting; 3 nobody reads
    standard output; 4 Redis is away at the start, or refuses, or what was in hand was not finished in time
    (it comes again); 130 stopped twice.
    """
    from moodq_producer.stream.running import Options, run

    ctx.exit(run(Options(**options)))
