"""``moodq exporter``. Only click is imported with this module."""

from __future__ import annotations

from pathlib import Path

import click

from moodq_config.errors import ConfigError, ErrorCode

DEFAULT_PORT = 9465


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", default=DEFAULT_PORT, show_default=True, type=click.IntRange(0, 65_535), help="0: any free one."
)
@click.option(
    "--queue", "queues", multiple=True, help="Tell of this queue only; may be repeated. Default: every queue "
    "of this Redis, at most 200.",
)  # fmt: skip
@click.option(
    "--targets", type=click.Path(dir_okay=False, path_type=Path),
    help="Keep this file up to date with the workers' metrics addresses, for Prometheus's file_sd_configs.",
)  # fmt: skip
@click.option("--once", is_flag=True, help="Print the metrics (and write the file), and end.")
def exporter(host: str, port: int, queues: tuple[str, ...], targets: Path | None, once: bool) -> None:
    """Tell Prometheus what only the queue knows, once for all workers: depths, ages, backlogs, registries,
    workers alive. Reads nothing but Redis; plain RQ queues count too.

    /metrics has the figures, /targets the workers' own metrics addresses for http_sd_configs, /healthz
    answers while the process lives. Start one, whatever the number of workers.

    \b
    Exit codes: 0 stopped; 2 wrong setting, or the file cannot be written; 4 the port is taken, or with --once
    Redis does not answer.
    """
    from moodq_config.settings import load_settings
    from moodq_producer.exporter.reading import Reader

    try:
        from moodq_producer.exporter.serving import print_once, serve
    except ModuleNotFoundError as error:
        raise ConfigError(
            "moodq exporter needs prometheus_client; install it with: pip install 'moodq[exporter]'",
            code=ErrorCode.NOT_INSTALLED,
        ) from error
    reader = Reader(load_settings(), queues)
    try:
        if once:
            print_once(reader, targets)
        else:
            serve(reader, host, port, targets)
    except OSError as error:
        raise ConfigError(
            f"--targets: {targets} cannot be written ({error.strerror}); name a file in a folder that this "
            "user may write to"
        ) from error
    finally:
        reader.close()
