"""``moodq tag``. Only click is imported with this module."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from moodq_config.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from moodq_producer.bulk.output import Output
    from moodq_producer.bulk.rows import Format
    from moodq_producer.bulk.tagging import Tagged
    from moodq_producer.client import Client

EXIT_COMPLETE = 0
EXIT_PARTIAL = 3
FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, required=True)
@click.option("-o", "--output", type=FILE, help="Write here instead of standard output; can be resumed.")
@click.option("--tasks", default="sentiment", show_default=True, help="Names of tasks, separated by commas.")
@click.option("--format", "forced", type=click.Choice(["lines", "jsonl", "csv", "tsv", "parquet"]),
              help="Default: by the name, .gz and .zst left aside; else plain lines.")  # fmt: skip
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

    Plain lines, JSONL, CSV, TSV and Parquet, also as .gz or .zst. Memory stays the same for a file of any
    size. A run with -o leaves a checkpoint beside its output until it is complete: after a kill or Ctrl-C,
    --resume goes on without a gap or a double.

    \b
    Exit codes: 0 every row done; 2 wrong usage, file or setting; 3 done, but some rows failed (told in the
    output, or in --rejects); 4 Redis or every worker is away; 6 no result in time; 130 interrupted.
    """
    from moodq_producer.bulk.output import Checkpoint, Output, read_checkpoint
    from moodq_producer.bulk.progress import Counts, Progress
    from moodq_producer.bulk.report import Report
    from moodq_producer.bulk.rows import STDIN, Columns, Position, expand, read_rows
    from moodq_producer.bulk.running import workers
    from moodq_producer.bulk.tagging import Plan, Tagging
    from moodq_producer.client import Client

    names = _names(tasks)
    if not names:
        raise click.UsageError("--tasks names no task; try --tasks sentiment")
    if resume and output is None:
        raise click.UsageError("--resume goes with -o: what went to standard output is not known here")
    paths = expand(files)
    if resume and STDIN in paths:
        raise click.UsageError("--resume needs files: standard input cannot be read again")
    kept = tuple(_names(columns))
    terms: dict[str, Any] = {
        "files": paths, "tasks": names, "format": forced, "text_column": text_column, "columns": list(kept),
        "lang": lang, "unordered": unordered, "sample": sample, "dedupe": dedupe,
        "rejects": rejects is not None,
    }  # fmt: skip
    checkpoint = read_checkpoint(output, terms) if resume and output else Checkpoint(terms=terms)
    position = Position(paths)
    counts = Counts(checkpoint.counts)
    plan = Plan(
        tuple(names), checkpoint.run, queue, lang, not unordered, dedupe, sample,
        checkpoint.rows, frozenset(checkpoint.beyond), timeout,
    )  # fmt: skip
    rows = read_rows(paths, Columns(text_column, kept), forced, position)
    page = Report(names[0]) if report is not None else None
    with workers(local=local), Client() as client:
        _need_workers(client)
        sink = Output(output, rejects, checkpoint)
        complete = False
        written: list[str] = []  # ids whose results Redis need not keep once the checkpoint counts them
        try:
            with Progress(counts, position, quiet=quiet) as progress:
                tagging = Tagging(client, rows, plan)
                for one in tagging:
                    _write(sink, one, many=len(paths) > 1)
                    counts.add(one.result)
                    if page is not None:
                        page.add(one.row.line, one.row.text, one.result)
                    written.append(one.result.id)
                    if sink.due:
                        sink.save(tagging.rows_done, tagging.beyond, dict(counts.all))
                        client.forget(written)
                        written.clear()
                    progress.step()
            complete = True
        except BrokenPipeError:
            ctx.exit(EXIT_PARTIAL)
        finally:
            sink.close(complete=complete)
            if complete:
                client.forget(written)
            if not complete and output is not None:
                click.echo(f"moodq: {progress.told()}; go on with the same command and --resume", err=True)
        if report is not None and page is not None:
            report.write_text(page.page(f"{', '.join(names)} of {', '.join(files)}"), "utf-8")
        if not quiet:
            click.echo(f"moodq: {progress.told()}", err=True)
    ctx.exit(EXIT_PARTIAL if counts.all["failed"] else EXIT_COMPLETE)


def _write(sink: Output, one: Tagged, *, many: bool) -> None:
    result, row = one.result, one.row
    record: dict[str, Any] = {"file": row.file} if many else {}
    record |= {"line": row.line, **({"columns": row.kept} if row.kept else {}), "text": row.text}
    if result.error is not None:
        sink.reject({**record, "error": result.error.model_dump()})
        return
    record["results"] = {task: found.model_dump() for task, found in result.results.items()}
    if result.truncated is not None:
        record["truncated"] = result.truncated.model_dump(exclude_none=True)
    sink.write(record)


def _need_workers(client: Client) -> None:
    if not client.workers_alive():
        raise Unavailable(
            "no worker is alive, so nothing would be labelled; start one with `moodq worker` (`moodq up` for "
            "everything), or let this command do it with --local"
        )


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if len(set(names)) < len(names):
        raise ConfigError(f"{text!r} names something twice")
    return names
