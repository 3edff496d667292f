"""``moodq tag``. Only click is imported with this module."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from moodq_config.errors import ConfigError

if TYPE_CHECKING:
    from moodq_producer.bulk.rows import Format

FILE = click.Path(dir_okay=False, path_type=Path)
FORMATS = ["lines", "jsonl", "csv", "tsv", "parquet", "openai-batch"]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, required=True)
@click.option("-o", "--output", type=FILE, help="Write here instead of standard output; can be resumed.")
@click.option("--tasks", default="sentiment", show_default=True, help="Names of tasks, separated by commas.")
@click.option("--format", "forced", type=click.Choice(FORMATS),
              help="Default: by the name, .gz and .zst left aside; else plain lines. openai-batch: requests "
              "of OpenAI's batch API and vLLM's run_batch, answered in kind.")  # fmt: skip
@click.option("--text-column", default="text", show_default=True, help="Where a row of a table has its text.")
@click.option("--columns", default="", help="Other columns to keep in the output, separated by commas.")
@click.option("--lang", type=click.Choice(["zh", "en"]), help="Language of the prompts; else by the text.")
@click.option("--queue", default="bulk", show_default=True, help="Queue to send to.")
@click.option("--resume", is_flag=True, help="Go on with a run that was stopped or killed; same options.")
@click.option("--rejects", type=FILE, help="Write rows that failed here, with line and code.")
@click.option("--unordered", is_flag=True, help="Write records as they come; they name their lines.")
@click.option("--dedupe", is_flag=True, help="Send equal texts once.")
@click.option(
    "--sample", type=click.FloatRange(0, 1, min_open=True), default=1.0, help="Share of rows to take."
)
@click.option(
    "--report", type=FILE, help="Write a page with plots and examples; needs: pip install 'moodq[eval]'."
)
@click.option("--time-column", help="Column with a row's time, for --report; else what a text begins with.")
@click.option("--templates", type=FILE, help="Write the kinds of lines with their labels and counts, as CSV.")
@click.option("--local", is_flag=True, help="Start a queue and a worker for this run, if none is alive.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=300.0, show_default=True,
              help="Seconds without any result after which to give up.")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_context
def tag(
    ctx: click.Context,
    files: tuple[str, ...],
    output: Path | None,
    tasks: str,
    forced: Format | None,
    text_column: str,
    columns: str,
    lang: str | None,
    queue: str,
    resume: bool,
    rejects: Path | None,
    unordered: bool,
    dedupe: bool,
    sample: float,
    report: Path | None,
    time_column: str | None,
    templates: Path | None,
    local: bool,
    timeout: float,
    quiet: bool,
) -> None:
    """Label or rewrite every text of FILES (names, globs, or - for standard input), one JSON line each.

    \b
    moodq tag reviews.csv --text-column review --tasks sentiment -o tagged.jsonl
    zcat app.log.gz | moodq tag - > tagged.jsonl
    moodq tag 'logs/*.log.gz' -o tagged.jsonl --dedupe --rejects bad.jsonl
    moodq tag reviews.csv -o tagged.jsonl --resume
    moodq tag reviews.csv --local -o tagged.jsonl
    moodq tag requests.jsonl --format openai-batch -o responses.jsonl

    Plain lines, JSONL, CSV, TSV and Parquet, also as .gz or .zst. Memory stays the same for a file of any
    size. A run with -o leaves a checkpoint beside its output until it is complete: after a kill or Ctrl-C,
    --resume goes on without a gap or a double.

    \b
    Exit codes: 0 every row done; 2 wrong usage, file or setting; 3 done, but some rows failed (told in the
    output, or in --rejects); 4 Redis or every worker is away; 6 no result in time; 130 interrupted.
    """
    from moodq_producer.bulk.files import STDIN, expand
    from moodq_producer.bulk.rows import Columns
    from moodq_producer.bulk.run import Order, run

    names = _names(tasks)
    kept = _names(columns)
    if not names:
        raise click.UsageError("--tasks names no task; try --tasks sentiment")
    if forced == "openai-batch" and len(names) > 1:
        raise click.UsageError("--format openai-batch answers with one task; --tasks names several")
    if resume and output is None:
        raise click.UsageError("--resume goes with -o: what went to standard output is not known here")
    paths = expand(files)
    if resume and STDIN in paths:
        raise click.UsageError("--resume needs files: standard input cannot be read again")
    if time_column is not None and time_column not in kept:
        kept.append(time_column)
    order = Order(
        tuple(paths), tuple(names), forced, Columns(text_column, tuple(kept)), output, rejects, lang, queue,
        resume, not unordered, dedupe, sample, report, time_column, templates, local, timeout, quiet,
    )  # fmt: skip
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    ctx.exit(run(order, lambda line: click.echo(f"moodq: {line}", err=True)))


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(set(names)) < len(names):
        raise ConfigError(f"{text!r} names something twice")
    return names
