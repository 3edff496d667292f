"""``moodq cancel | pause | resume | drain``: what is stopped, and what goes on.

Like ``cli``, only click is imported with this module.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from moodq_config.errors import Unavailable, WaitTimeout

if TYPE_CHECKING:
    from redis import Redis

CONTEXT = {"help_option_names": ["-h", "--help"]}
EXIT_ENDED_BEFORE = 3


@click.command(context_settings=CONTEXT)
@click.argument("item_ids", nargs=-1, required=True, metavar="ID...")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per id.")
@click.pass_context
def cancel(ctx: click.Context, item_ids: tuple[str, ...], as_json: bool) -> None:
    """Cancel texts by their ids, waiting or running: each ends as failed with the code `cancelled`.

    \b
    Exit codes: 0 all are cancelled; 3 one had ended before, or an id is none; 4 Redis does not answer.
    """
    from moodq_config.printable import printable
    from moodq_producer.client import Client

    late = False
    with Client() as client:
        for id in item_ids:
            cancelled = client.cancel(id)
            late = late or not cancelled
            if as_json:
                click.echo(json.dumps({"id": id, "cancelled": cancelled}))
            else:
                click.echo(f"{printable(id)}: {'cancelled' if cancelled else 'had ended before'}")
    ctx.exit(EXIT_ENDED_BEFORE if late else 0)


@click.command(context_settings=CONTEXT)
@click.option(
    "--for", "seconds", type=click.IntRange(min=1), help="Seconds after which work goes on by itself."
)
def pause(seconds: int | None) -> None:
    """Let all workers claim nothing more, on every queue, until `moodq resume`. What is in hand is finished.

    It is RQ's `suspend`, which knows no single queue; `moodq stats` shows it.

    \b
    Exit codes: 0 paused; 4 Redis does not answer.
    """
    from moodq_producer import control

    with _connection() as connection:
        control.pause(connection, seconds)
    click.echo("paused" + (f" for {seconds} s" if seconds else "; `moodq resume` ends it"))


@click.command(context_settings=CONTEXT)
def resume() -> None:
    """Let paused workers claim again.

    \b
    Exit codes: 0 they do, also if they were not paused; 4 Redis does not answer.
    """
    from moodq_producer import control

    with _connection() as connection:
        was_paused = control.resume(connection)
    click.echo("resumed" if was_paused else "was not paused")


@click.command(context_settings=CONTEXT)
@click.option("--queue", help="Only the workers that serve this queue.")
@click.option("--worker", help="Only the worker of this name.")
@click.option(
    "--wait", "wait_s", type=click.FloatRange(min=0), default=0.0, help="Seconds to wait for their end."
)
def drain(queue: str | None, worker: str | None, wait_s: float) -> None:
    """Ask workers to finish what they have started, put back the rest, and end. RQ's `shutdown` command.

    \b
    Exit codes: 0 asked, or ended with --wait; 4 Redis does not answer, or there is no such worker; 6 not
    ended in time.
    """
    from moodq_config.printable import printable
    from moodq_producer import control

    with _connection() as connection:
        names = control.drain(connection, queue=queue, worker=worker)
        if not names:
            raise Unavailable("no living worker to drain; `moodq stats` shows who is there")
        click.echo(f"draining: {', '.join(map(printable, names))}")
        if wait_s and (left := control.wait_until_gone(connection, names, wait_s)):
            raise WaitTimeout(
                f"not ended within {wait_s:g} s: {', '.join(map(printable, left))}; they are still draining "
                "(MOODQ_DRAIN_TIMEOUT_S)"
            )


@contextmanager
def _connection() -> Iterator[Redis]:
    from moodq_config.settings import load_settings, server_url
    from moodq_producer.connection import connect, redis_errors

    settings = load_settings()
    with connect(settings) as connection, redis_errors(server_url(settings)):
        yield connection
