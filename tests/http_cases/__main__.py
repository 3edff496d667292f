"""``python -m tests.http_cases``, from the repository's root: schemathesis makes requests of the gateway's
own OpenAPI, right and wrong ones, and no answer may be a fault, or another than the document says.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from .cases import run
from .processes import gateway_running

FOLDER = Path("build/http-cases")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--cases", default=10_000, show_default=True, type=click.IntRange(100), help="Requests.")
@click.option("--seed", default=1, show_default=True, help="Of the requests.")
def main(cases: int, seed: int) -> None:
    """Send CASES requests made of /openapi.json; writes build/http-cases/latest.json.

    \b
    Exit codes: 0 every answer was as the document says; 1 one was not.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    # Waits are short: most requests are for ids of which nothing is known.
    with gateway_running(MOODQ_GATEWAY_MAX_WAIT_S="1") as (url, _):
        found = run(url, cases, seed, lambda line: click.echo(line, err=True))
    (FOLDER / "latest.json").write_text(json.dumps(found.as_dict(), indent=1) + "\n", "utf-8")
    click.echo(json.dumps(found.as_dict()))
    sys.exit(1 if found.failures else 0)


if __name__ == "__main__":
    main()
