"""The worker's commands: ``moodq worker | up | demo | bench``. Heavy imports happen inside them."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from moodq_config.settings import Settings, load_settings
from moodq_config.tasks import LANGS


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.command()
@click.option(
    "--processes", metavar="N|auto",
    help="Worker processes, each with a group of cores or a GPU of its own. Default: MOODQ_PROCESSES, 1.",
)  # fmt: skip
def worker(processes: str | None) -> None:
    """Run a worker in the foreground until SIGTERM; start as many as you like.

    Needs a Redis: MOODQ_REDIS_URL, or the one `moodq up` started. A second worker on the same machine
    needs a metrics port of its own; MOODQ_METRICS_PORT=0 takes any free one. With --processes the ports
    follow one another from MOODQ_METRICS_PORT on, a process that dies is started again, and the first one
    starts alone: one that cannot start ends all, with its exit code.

    SIGTERM or Ctrl-C lets it finish what it has started, for MOODQ_DRAIN_TIMEOUT_S; a second one puts that
    back in front of its queue at once.

    \b
    Exit codes: 0 drained; 1 Redis did not take the last results; 2 wrong setting; 4 Redis does not answer, or
    the port is taken; 5 the model cannot be used; 70 the engine hung; 71 a thread died; 75 a second signal.
    """
    from moodq_worker.__main__ import main

    sys.exit(main(processes))


@click.command()
@click.option("--no-gateway", is_flag=True, help="Do not serve HTTP.")
def up(no_gateway: bool) -> None:
    """Fetch the model if need be, start a queue (unless MOODQ_REDIS_URL names one) and a worker; stay up.

    With the extra installed (pip install 'moodq[gateway]') it also serves HTTP and the page, on port 8080
    (MOODQ_GATEWAY_PORT) of this machine; see `moodq gateway --help`.

    A second `moodq up` with the same data folder uses the queue that is running and adds a worker.
    Ctrl-C drains: running work is finished, the rest stays queued.
    """
    from moodq_worker.up import stay_up

    sys.exit(stay_up(_settings_with_free_port(), _say, with_gateway=not no_gateway))


@click.command()
def demo() -> None:
    """Send 40 Chinese and English messages through the whole system and print what comes out."""
    from moodq_worker.demo import run_demo

    sys.exit(run_demo(_settings_with_free_port(), _say))


@click.command()
@click.option(
    "--precision", "precisions", multiple=True, type=click.Choice(["bf16", "int8", "fp32", "fp16"]),
    help="May be repeated. Default: bf16 and int8.",
)  # fmt: skip
@click.option("--task", default="sentiment", show_default=True, help="A label task.")
@click.option(
    "--texts", type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Lines of label, tab, text. Default: the demo's messages, too few to judge by.",
)  # fmt: skip
def bench(precisions: tuple[str, ...], task: str, texts: Path | None) -> None:
    """Compare precisions on your own labelled texts: speed and accuracy, the engine alone.

    Choose with MOODQ_PRECISION. `make bench` in the repository compares with other software.
    """
    from moodq_config.tasks import LabelTask, load_tasks
    from moodq_worker.quality.compare import compare
    from moodq_worker.quality.examples import read_examples

    settings = load_settings()
    tasks = load_tasks(settings.tasks_file)
    chosen = tasks.get(task)
    if not isinstance(chosen, LabelTask):
        names = ", ".join(one.name for one in tasks.labels())
        raise click.BadParameter(f"{task!r} is not a label task; these are: {names}", param_hint="--task")
    examples = read_examples(texts, chosen)
    _say(f"{len(examples)} texts; loading each precision takes some seconds")
    click.echo(f"{'precision':<10}{'items/s':>9}{'tokens/s':>10}{'zh':>8}{'en':>8}{'changed':>9}")
    for one in compare(settings, tasks, chosen, precisions or ("bf16", "int8"), examples):
        found = [f"{one.accuracy[lang]:.3f}" if lang in one.accuracy else "-" for lang in LANGS]
        shares = "".join(f"{share:>8}" for share in found)
        click.echo(
            f"{one.precision:<10}{one.items_per_s:>9.1f}{one.tokens_per_s:>10.0f}{shares}{one.changed:>9.1%}"
        )


def _settings_with_free_port() -> Settings:
    """The settings; a default metrics port that is taken is no reason not to start here."""
    from moodq_config.settings import origins
    from moodq_worker.embedded import free_port, port_is_free

    settings = load_settings()
    if origins(settings)["metrics_port"] == "default" and not port_is_free(settings.metrics_port):
        return settings.model_copy(update={"metrics_port": free_port()})
    return settings
