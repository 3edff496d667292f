"""``moodq failed list | show | retry | drop``: the failed registries of the queues.

Like ``cli``, only click is imported with this module. Texts are shown only when asked for, with control
characters as escapes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from moodq_config.errors import BadInput, ErrorCode

if TYPE_CHECKING:
    from moodq_producer.failed import FailedJob, FailedJobs

CONTEXT = {"help_option_names": ["-h", "--help"]}
F = TypeVar("F", bound=Callable[..., Any])


def _which(command: F) -> F:
    """Options that choose among failed jobs."""
    for option in (
        click.option("--code", help="Only those that failed with this code, e.g. engine_failed."),
        click.option("--queue", help="Only those of this queue."),
    ):
        command = option(command)
    return command


@click.group(context_settings=CONTEXT)
def failed() -> None:
    """What the workers gave up: see why, run it again, or drop it."""


@failed.command("list", context_settings=CONTEXT)
@_which
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per job.")
def list_failed(queue: str | None, code: str | None, as_json: bool) -> None:
    """List failed jobs, those that failed last at the end of their queue.

    \b
    moodq failed list --code engine_failed --json | jq -r .id

    \b
    Exit codes: 0 listed, also when there are none; 4 Redis does not answer.
    """
    with _failed_jobs(queue) as jobs:
        found = jobs.each(code)
        if as_json:
            for job in found:
                click.echo(json.dumps(job.as_dict()))
            return
        rows = list(found)
    if not rows:
        click.echo("nothing has failed" + (f" with {code}" if code else ""))
        return
    from rich.console import Console

    from moodq_producer.screen import failed_table

    Console().print(failed_table(rows))


@failed.command(context_settings=CONTEXT)
@click.argument("job_id", metavar="ID")
@click.option("--texts", is_flag=True, help="Show the texts too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def show(job_id: str, texts: bool, as_json: bool) -> None:
    """Show one failed job, by its id or by that of an item in it.

    \b
    Exit codes: 0 shown; 3 no such failed job; 4 Redis does not answer.
    """
    from moodq_config.printable import printable

    with _failed_jobs(None) as jobs:
        job = _found(jobs, job_id)
        told: dict[str, Any] = job.as_dict()
        if texts:
            told["texts"] = jobs.texts(job)
    if as_json:
        click.echo(json.dumps(told))
        return
    for name, value in told.items():
        if isinstance(value, dict):
            for id, text in value.items():
                click.echo(f"text {printable(id)}: {printable(text)}")
        else:
            shown = ", ".join(value) if isinstance(value, tuple) else str("" if value is None else value)
            click.echo(f"{name}: {printable(shown)}")


@failed.command(context_settings=CONTEXT)
@click.argument("job_ids", nargs=-1, metavar="[ID]...")
@_which
@click.option("--all", "every", is_flag=True, help="All that --queue and --code leave.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def retry(job_ids: tuple[str, ...], queue: str | None, code: str | None, every: bool, as_json: bool) -> None:
    """Enqueue failed jobs again, with all their attempts; the failed results are forgotten.

    `rq requeue` does it too, but leaves the results: a waiter then finds the old one until the new one comes.

    \b
    Exit codes: 0 enqueued, also when --all finds none; 2 neither ids nor --all; 3 no such failed job; 4 Redis
    does not answer.
    """
    with _failed_jobs(queue) as jobs:
        _tell("retried", jobs.retry, _chosen(jobs, job_ids, code, every), as_json)


@failed.command(context_settings=CONTEXT)
@click.argument("job_ids", nargs=-1, metavar="[ID]...")
@_which
@click.option("--all", "every", is_flag=True, help="All that --queue and --code leave.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def drop(job_ids: tuple[str, ...], queue: str | None, code: str | None, every: bool, as_json: bool) -> None:
    """Delete failed jobs. The results of their items stay until they expire.

    \b
    Exit codes: 0 dropped, also when --all finds none; 2 neither ids nor --all; 3 no such failed job; 4 Redis
    does not answer.
    """
    with _failed_jobs(queue) as jobs:
        _tell("dropped", jobs.drop, _chosen(jobs, job_ids, code, every), as_json)


def _chosen(
    jobs: FailedJobs, ids: tuple[str, ...], code: str | None, every: bool
) -> Iterator[list[FailedJob]]:
    """The jobs meant, in portions; ids are looked up before the first of them is touched."""
    from moodq_producer.failed import AT_ONCE
    from moodq_producer.jobs import chunks

    if bool(ids) == every:
        raise click.UsageError("name the jobs by their ids, or take --all (with --queue or --code)")
    if ids and code:
        raise click.UsageError("--code goes with --all")
    return chunks(list(jobs.each(code)) if every else [_found(jobs, id) for id in ids], AT_ONCE)


def _found(jobs: FailedJobs, id: str) -> FailedJob:
    job = jobs.find(id)
    if job is None:
        from moodq_config.printable import printable

        raise BadInput(
            f"no failed job {printable(id)!r}; `moodq failed list` shows those there are (they are kept for "
            "MOODQ_FAILURE_TTL_S)",
            code=ErrorCode.NO_SUCH_JOB,
        )
    return job


def _tell(
    verb: str, act: Callable[[list[FailedJob]], int], chosen: Iterator[list[FailedJob]], as_json: bool
) -> None:
    count = sum(act(some) for some in chosen)
    click.echo(json.dumps({verb: count}) if as_json else f"{verb}: {count}")


@contextmanager
def _failed_jobs(queue: str | None) -> Iterator[FailedJobs]:
    from moodq_config.settings import load_settings, server_url
    from moodq_producer.connection import connect, redis_errors
    from moodq_producer.failed import FailedJobs

    settings = load_settings()
    with connect(settings) as connection, redis_errors(server_url(settings)):
        yield FailedJobs(
            connection,
            None if queue is None else [queue],
            max_job_mb=settings.max_job_mb,
            max_attempts=settings.max_attempts,
        )
