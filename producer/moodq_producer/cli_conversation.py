"""``moodq conversation show | takeover | release | say | next``: a person beside the model.

Like ``cli``, only click is imported with this module. What customers wrote is shown with control characters
as escapes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from moodq_config.conversations import Turn
    from moodq_producer.conversations import Conversations

CONTEXT = {"help_option_names": ["-h", "--help"]}
EXIT_NOTHING = 3
NAMES = {"user": "customer", "assistant": "moodq", "person": "person"}


@click.group(context_settings=CONTEXT)
def conversation() -> None:
    """See what was said to a customer, answer in place of the model, and hand back."""


@conversation.command(context_settings=CONTEXT)
@click.argument("id")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def show(ctx: click.Context, id: str, as_json: bool) -> None:
    """Show what was said in conversation ID, and who answers there.

    \b
    Exit codes: 0 shown; 3 nothing was said, or ID is none; 4 Redis does not answer.
    """
    from moodq_config.printable import printable, printable_json

    with _conversations() as conversations:
        found = conversations.show(id)
    if as_json:
        click.echo(printable_json(json.dumps(found.model_dump(exclude_none=True), ensure_ascii=False)))
    else:
        for turn in found.turns:
            click.echo(f"{turn.at[:19]}  {_who(turn)}: {printable(turn.text)}")
        if found.taken_over is not None:
            click.echo(f"taken over by {printable(found.taken_over.by)} at {found.taken_over.at[:19]}")
        elif not found.turns:
            click.echo("nothing was said, or it has expired (MOODQ_CONVERSATION_TTL_S)")
    ctx.exit(0 if found.turns or found.taken_over else EXIT_NOTHING)


@conversation.command(context_settings=CONTEXT)
@click.argument("id")
@click.option("--by", required=True, help="Who answers from now on.")
@click.option(
    "--for",
    "seconds",
    type=click.IntRange(min=1),
    help="Seconds after which the model answers again by itself; MOODQ_TAKEOVER_TTL_S if unset.",
)
def takeover(id: str, by: str, seconds: int | None) -> None:
    """Answer in conversation ID in place of the model; a reply that is being written stops.

    \b
    Exit codes: 0 taken over; 3 ID or the name is none; 4 Redis does not answer.
    """
    with _conversations() as conversations:
        conversations.take_over(id, by, seconds)
    click.echo(f"taken over; `moodq conversation release {id}` ends it")


@conversation.command(context_settings=CONTEXT)
@click.argument("id")
def release(id: str) -> None:
    """Let the model answer in conversation ID again.

    \b
    Exit codes: 0 it does, also if nobody had taken over; 3 ID is none; 4 Redis does not answer.
    """
    with _conversations() as conversations:
        was_taken = conversations.release(id)
    click.echo("released" if was_taken else "was not taken over")


@conversation.command(context_settings=CONTEXT)
@click.argument("id")
@click.argument("text")
@click.option("--by", help="Who says it.")
def say(id: str, text: str, by: str | None) -> None:
    """Add TEXT, a person's answer, to conversation ID; the model knows it when it answers again.

    \b
    Exit codes: 0 added; 3 ID, name or text is none; 4 Redis does not answer.
    """
    with _conversations() as conversations:
        conversations.say(id, text, by)
    click.echo("said")


@conversation.command("next", context_settings=CONTEXT)
@click.argument("route")
@click.option("--wait", "wait_s", type=click.FloatRange(min=0), default=0.0, help="Seconds to wait for one.")
@click.pass_context
def next_message(ctx: click.Context, route: str, wait_s: float) -> None:
    """Take the message that has waited longest on ROUTE, as JSON. Rules of the tasks file send them there.

    \b
    Exit codes: 0 printed; 3 there is none, or ROUTE is no name; 4 Redis does not answer.
    """
    from moodq_config.printable import printable_json

    with _conversations() as conversations:
        found = conversations.next_routed(route, wait_s or None)
    if found is None:
        click.echo("nothing waits there", err=True)
        ctx.exit(EXIT_NOTHING)
    click.echo(printable_json(json.dumps(found.model_dump(exclude_none=True), ensure_ascii=False)))


def _who(turn: Turn) -> str:
    from moodq_config.printable import printable

    return printable(turn.by) if turn.by else NAMES[turn.role]


@contextmanager
def _conversations() -> Iterator[Conversations]:
    from moodq_producer.client import Client

    with Client() as client:
        yield client.conversations
