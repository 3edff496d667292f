"""``moodq gateway``. Only click is imported with this module; FastAPI and the rest come when it runs."""

from __future__ import annotations

import sys

import click

CONTEXT = {"help_option_names": ["-h", "--help"]}


@click.group(invoke_without_command=True, context_settings=CONTEXT)
@click.option("--host", help="Address to listen on. Default: MOODQ_GATEWAY_HOST, 127.0.0.1.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Default: MOODQ_GATEWAY_PORT, 8080; 0: any free one."
)
@click.option("--quiet", is_flag=True, help="Do not print the address.")
@click.pass_context
def gateway(ctx: click.Context, host: str | None, port: int | None, quiet: bool) -> None:
    """Serve texts over HTTP, and the page to try it, until SIGTERM or Ctrl-C.

    \b
    moodq gateway
    curl -s localhost:8080/v1/analyze -H 'Content-Type: application/json' \\
         -d '{"text": "太棒了！", "tasks": ["sentiment", "reply"]}'
    curl -sN localhost:8080/v1/stream/ID        # label, then the reply word by word
    curl -s localhost:8080/openapi.json         # all of it

    Needs a Redis (MOODQ_REDIS_URL, or the one `moodq up` started) and a worker (`moodq worker`).

    Beyond this machine it listens only with API keys:

    \b
    moodq gateway key new shop                  # prints a key, and its line for the file
    MOODQ_GATEWAY_KEYS_FILE=keys.txt moodq gateway --host 0.0.0.0

    \b
    Exit codes: 0 stopped; 2 wrong setting, or no keys beyond this machine; 4 the port is taken, or no Redis
    is known.
    """
    if ctx.invoked_subcommand is not None:
        return
    from moodq_config.logs import configure_logs
    from moodq_config.names import GATEWAY_SERVICE
    from moodq_config.otel import traced_process
    from moodq_config.settings import load_settings
    from moodq_producer.gateway.serving import run

    given = {"gateway_host": host, "gateway_port": port}
    settings = load_settings(**{name: value for name, value in given.items() if value is not None})
    configure_logs(settings, GATEWAY_SERVICE)
    with traced_process(GATEWAY_SERVICE):
        code = run(settings, lambda line: None if quiet else click.echo(line, err=True))
    sys.exit(code)


@gateway.group(context_settings=CONTEXT)
def key() -> None:
    """Make API keys. The gateway keeps their hashes only."""


@key.command("callback-secret", context_settings=CONTEXT)
@click.argument("name", default="local")
def callback_secret(name: str) -> None:
    """Print the secret with which callbacks of the key called NAME are signed; its receivers check with it.

    Without NAME that of a gateway without keys. It follows from MOODQ_GATEWAY_CALLBACK_SECRET.

    \b
    Exit codes: 0 printed; 2 MOODQ_GATEWAY_CALLBACK_SECRET is not set.
    """
    from moodq_config.errors import ConfigError
    from moodq_config.settings import load_settings
    from moodq_producer.gateway.callbacks.signing import secret_of, shown

    master = load_settings().gateway_callback_secret
    if master is None:
        raise ConfigError(
            "MOODQ_GATEWAY_CALLBACK_SECRET is not set, so no callback is sent; make one with: "
            "openssl rand -base64 32"
        )
    click.echo(shown(secret_of(master.get_secret_value(), name)))


@key.command(context_settings=CONTEXT)
@click.argument("name")
def new(name: str) -> None:
    """Print a new key for NAME, and the line that lets it in.

    The key is shown this once. Whoever loses it gets another; taking the line away ends the key.

    \b
    Exit codes: 0 printed; 2 not a name.
    """
    import re

    from moodq_producer.gateway.keys import NAME_PATTERN, hash_of, new_key

    if not re.fullmatch(NAME_PATTERN, name):
        raise click.UsageError("NAME has 1 to 64 of A-Z a-z 0-9 _ . -")
    made = new_key()
    click.echo(f"key:  {made}")
    click.echo(f"line: {name}={hash_of(made)}")
    click.echo("Give the key to whoever calls; put the line into the file MOODQ_GATEWAY_KEYS_FILE.", err=True)
