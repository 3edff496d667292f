"""``moodq send``, ``moodq result`` and ``moodq stats``.

Only click is imported with this module; the client, redis and rich come when a command runs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from moodq_config.errors import BadInput, ErrorCode, WaitTimeout
from moodq_config.names import PRODUCER_SERVICE
from moodq_config.otel import traced_process
from moodq_config.printable import printable

if TYPE_CHECKING:
    from moodq_config.contracts import Result
    from moodq_producer.client import Client
    from moodq_producer.enqueue import OnFull
    from moodq_producer.following import Event
    from moodq_producer.sending import Outcome

EXIT_OK = 0
EXIT_FAILED_ITEM = 3
#: Rows of one printed table; a longer input gets several, so that memory stays bounded.
TABLE_ROWS = 200


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("texts", nargs=-1, metavar="[TEXT]...")
@click.option("--tasks", default="sentiment", show_default=True, help="Names of tasks, separated by commas.")
@click.option("--json", "as_json", is_flag=True, help="Print each result as one line of JSON.")
@click.option("--labels", help="What --tasks topic chooses among, separated by commas.")
@click.option("--document", "documents", multiple=True, help="What --tasks rerank ranks; once for each.")
@click.option("--id", "item_id", help="Id of a single text; sent again, it is not run again.")
@click.option("--lang", type=click.Choice(["zh", "en"]), help="Language of the prompts; else by the text.")
@click.option("--queue", default="interactive", show_default=True, help="Queue to send to.")
@click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Seconds from now after which a text is not started any more.",
)
@click.option(
    "--stream", "as_stream", is_flag=True, help="Print one text's label and reply as they are made."
)
@click.option("--no-wait", is_flag=True, help="Print the ids and do not wait for results.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=60.0,
    show_default=True,
    help="Seconds without a result after which to give up.",
)
@click.option(
    "--on-full",
    type=click.Choice(["raise", "wait"]),
    help="At a full queue or a used-up rate: fail, or wait. Default: wait for standard input, else fail.",
)
@click.option(
    "--full-timeout",
    type=click.FloatRange(min=0),
    help="Seconds without room after which waiting for it ends. Default: never.",
)
@click.pass_context
def send(
    ctx: click.Context,
    texts: tuple[str, ...],
    tasks: str,
    as_json: bool,
    labels: str | None,
    documents: tuple[str, ...],
    item_id: str | None,
    lang: str | None,
    queue: str,
    deadline: float | None,
    as_stream: bool,
    no_wait: bool,
    timeout: float,
    on_full: OnFull | None,
    full_timeout: float | None,
) -> None:
    """Send texts and print their results, in the order of the texts.

    \b
    moodq send "今天的实验终于成功了，太棒了！" --tasks sentiment,reply
    moodq send "My order is late again." "Thanks, all good." --json
    moodq send "My order is late again." --tasks sentiment,reply --stream
    moodq send "The parcel is late." --tasks topic --labels delivery,refund,quality
    moodq send "how to reset my password" --tasks rerank --document "Press 'forgot'." --document "Hi."
    cat messages.txt | moodq send --queue bulk --json > results.jsonl

    Without TEXT, or with -, each line of standard input is a text; blank lines are skipped.

    \b
    Exit codes: 0 all done; 2 wrong usage or setting; 3 an item failed or was refused, the others are done;
    4 Redis does not answer, the queue is full or the rate used up; 6 no result in time.
    """
    from moodq_producer.client import Client
    from moodq_producer.sending import LineError, argument_texts, send_all, stdin_texts

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    choices = [label.strip() for label in labels.split(",") if label.strip()] if labels else None
    if not names:
        raise click.UsageError("--tasks names no task; try --tasks sentiment,reply")
    from_stdin = texts == ("-",) or (not texts and not sys.stdin.isatty())
    if not texts and not from_stdin:
        raise click.UsageError('nothing to send; try: moodq send "太棒了！", or pipe lines into it')
    if item_id is not None and (from_stdin or len(texts) != 1):
        raise click.UsageError("--id goes with exactly one TEXT")
    if as_stream and (from_stdin or len(texts) != 1 or no_wait):
        raise click.UsageError("--stream goes with exactly one TEXT, and without --no-wait")
    lines: Iterable[tuple[str, str | LineError]] = (
        stdin_texts(sys.stdin.buffer) if from_stdin else argument_texts(texts, item_id)
    )
    with traced_process(PRODUCER_SERVICE), Client() as client:
        if not no_wait:
            _warn_if_nobody_works(client)
        if as_stream:
            ticket = client.submit(
                texts[0],
                names,
                id=item_id,
                queue=queue,
                lang=lang,
                deadline=deadline,
                labels=choices,
                documents=documents or None,
                on_full=on_full or "raise",
                full_timeout=full_timeout,
            )
            ctx.exit(_print_stream(ticket.stream(timeout), as_json))
        outcomes = send_all(
            client,
            lines,
            names,
            lang=lang,
            queue=queue,
            deadline_s=deadline,
            labels=choices,
            documents=documents or None,
            on_full=on_full or ("wait" if from_stdin else "raise"),
            full_timeout_s=full_timeout,
            idle_timeout_s=None if no_wait else timeout,
            id=item_id,
        )
        if no_wait:
            ctx.exit(_print_ids(outcomes, as_json))
        ctx.exit(_print_results(outcomes, names, as_json))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("item_id", metavar="ID")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one line of JSON.")
@click.option("--wait", "wait_s", type=click.FloatRange(min=0), default=0.0, help="Seconds to wait for it.")
@click.pass_context
def result(ctx: click.Context, item_id: str, as_json: bool, wait_s: float) -> None:
    """Print the result of one text by its id.

    \b
    moodq result 6f1c0e --wait 10

    \b
    Exit codes: 0 done; 3 failed, or there is no such result; 4 Redis does not answer; 6 no result in time.
    """
    from moodq_producer.client import Client

    with Client() as client:
        found = next(client.wait([item_id], wait_s)) if wait_s else client.result(item_id)
    if found is None:
        raise BadInput(
            f"no result for {item_id!r}: not finished yet, never sent, or older than MOODQ_RESULT_TTL_S; "
            "wait for it with --wait SECONDS",
            code=ErrorCode.NO_SUCH_RESULT,
        )
    _show([(item_id, found)], list(found.results) or ["outcome"], as_json, title="id")
    ctx.exit(EXIT_OK if found.status == "done" else EXIT_FAILED_ITEM)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def stats(as_json: bool) -> None:
    """Show each queue's jobs (waiting, age of the oldest, started, finished, failed) and the living workers.

    \b
    moodq stats --json | jq '.queues.bulk.length'

    \b
    Exit codes: 0 shown; 4 Redis does not answer.
    """
    from moodq_config.settings import load_settings, server_url
    from moodq_producer.connection import connect, redis_errors
    from moodq_producer.stats import read_stats

    settings = load_settings()
    with connect(settings) as connection, redis_errors(server_url(settings)):
        found = read_stats(connection, settings.queues).as_dict()
    if as_json:
        click.echo(json.dumps(found))
        return
    from rich.console import Console

    from moodq_producer.screen import stats_table, workers_line

    Console().print(stats_table(found["queues"]))
    click.echo(workers_line(found["states"], paused=found["paused"]))


def _warn_if_nobody_works(client: Client) -> None:
    if not client.workers_alive():
        click.echo(
            "moodq: no worker is alive; waiting for one (`moodq worker`, or `moodq up` for everything)",
            err=True,
        )


def _print_stream(events: Iterator[Event], as_json: bool) -> int:
    """Print an item as it is made; with JSON one line per event. Exit code as for a result."""
    from moodq_producer.screen import event_line, event_text

    ended = None
    told: set[str] = set()
    for event in events:
        click.echo(event_line(event) if as_json else event_text(event, told), nl=as_json)
        told.update(event.labels, [event.task] if event.task else ())
        ended = event.result
    return EXIT_OK if ended is not None and ended.status == "done" else EXIT_FAILED_ITEM


def _print_ids(outcomes: Iterator[Outcome], as_json: bool) -> int:
    failed = False
    for outcome in outcomes:
        if outcome.result is not None:
            failed = True
            if as_json:
                _show([(outcome.name, outcome.result)], [], as_json, title="text")
            elif outcome.result.error is not None:
                error = outcome.result.error
                told = f"moodq: {outcome.result.id}: {error.code}: {error.message}"
                click.echo(printable(told), err=True)
        else:
            click.echo(json.dumps({"id": outcome.id}) if as_json else outcome.id)
    return EXIT_FAILED_ITEM if failed else EXIT_OK


def _print_results(outcomes: Iterator[Outcome], tasks: list[str], as_json: bool) -> int:
    """Print as results come; at a time-out print what is there, then let it end the command."""
    rows: list[tuple[str, Result | None]] = []
    failed = False
    try:
        for outcome in outcomes:
            failed = failed or (outcome.result is not None and outcome.result.status == "failed")
            rows.append((outcome.name, outcome.result))
            if as_json or len(rows) == TABLE_ROWS:
                _show(rows, tasks, as_json, title="text")
                rows = []
    except WaitTimeout:
        _show(rows, tasks, as_json, title="text")
        raise
    _show(rows, tasks, as_json, title="text")
    return EXIT_FAILED_ITEM if failed else EXIT_OK


def _show(rows: list[tuple[str, Result | None]], tasks: list[str], as_json: bool, *, title: str) -> None:
    from moodq_producer.screen import json_line, results_table

    if as_json:
        for _, found in rows:
            if found is not None:
                click.echo(json_line(found))
    elif rows:
        from rich.console import Console

        Console().print(results_table(rows, tasks, title))
