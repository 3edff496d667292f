"""One run of ``moodq follow``: the parts put together, signals, and what is told meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from redis.exceptions import RedisError

from moodq_config.errors import ConfigError, MoodqError
from moodq_config.names import PRODUCER_SERVICE
from moodq_config.otel import traced_process
from moodq_config.settings import load_settings
from moodq_config.task_file import TaskFile
from moodq_producer.async_client import AsyncClient
from moodq_producer.connection import close_async, connect_async
from moodq_producer.stream.alerts import Alert, rule
from moodq_producer.stream.checkpoint import CheckpointFile
from moodq_producer.stream.files import FileSource
from moodq_producer.stream.group import LEAST_CLAIM_S, Group, GroupSource
from moodq_producer.stream.multiline import joining
from moodq_producer.stream.pump import Pump, Work
from moodq_producer.stream.records import Reading, Source, duration_s
from moodq_producer.stream.sinks import LineSink, Sink, StreamSink
from moodq_producer.stream.watching import Watching
from moodq_producer.stream.windows import Watch, window

log = logging.getLogger(__name__)

EXIT_NO_READER, EXIT_UNFINISHED, EXIT_INTERRUPTED = 3, 4, 130
#: Seconds between two looks at windows and alerts, and at the source.
STEP_S, TEND_S = 0.25, 0.5
#: Seconds between two equal lines about an outage.
SAME_LINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Options:
    """As on the command line."""

    files: tuple[str, ...]
    streams: tuple[str, ...]
    lists: tuple[str, ...]
    group: str
    consumer: str | None
    claim_after: str
    field: str
    output: Path | None
    to_stream: str | None
    max_entries: int
    checkpoint: Path | None
    begin: Literal["end", "start"]
    tasks: str
    form: Literal["lines", "jsonl"]
    text_column: str
    columns: str
    multiline: str | None
    multiline_pause: str
    lang: str | None
    queue: str
    windows: tuple[str, ...]
    alerts: tuple[str, ...]
    webhook: str | None
    metrics_port: int | None
    metrics_host: str
    drain_timeout: str
    quiet: bool

    def check(self) -> None:
        """Raises ``ConfigError`` for options that do not go together."""
        keyed = bool(self.streams or self.lists)
        if bool(self.files) == keyed:
            raise ConfigError("name files to follow, or --stream or --list, and not both")
        if "-" in self.files:
            raise ConfigError(
                "standard input cannot be gone on with after a kill; use `moodq tag -`, or a file"
            )
        if self.output is not None and self.to_stream is not None:
            raise ConfigError("-o and --to-stream are two outputs; leave one out")
        if keyed and (self.multiline or self.checkpoint):
            raise ConfigError(
                "--multiline and --checkpoint are for files; a stream's entries are whole, and its group "
                "keeps the place"
            )
        if self.multiline is not None:
            joining(self.multiline, duration_s(self.multiline_pause))
        if self.multiline and self.form == "jsonl":
            raise ConfigError("--multiline joins plain lines; leave --format jsonl out")
        if self.to_stream in self.streams:
            raise ConfigError("--to-stream is followed itself; name another stream")
        if self.webhook and not self.alerts:
            raise ConfigError("--webhook posts alerts; give an --alert, e.g. 'negative>0.4 over 5m'")
        if duration_s(self.claim_after) < LEAST_CLAIM_S:
            raise ConfigError(
                f"--claim-after {self.claim_after} takes living consumers for dead; at least 2s"
            )
        if not self.names(self.tasks):
            raise ConfigError("--tasks names no task; try --tasks sentiment")

    @staticmethod
    def names(text: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def run(options: Options) -> int:
    """Until a signal; returns the exit code. Raises ``MoodqError``."""
    options.check()
    with _told(), traced_process(PRODUCER_SERVICE):
        return asyncio.run(_run(options))


async def _run(options: Options) -> int:
    settings = load_settings()
    tasks = options.names(options.tasks)
    now = time.monotonic()
    known = TaskFile(settings.tasks_file).tasks
    watching = Watching(
        [Watch(window(text), now) for text in options.windows],
        [Alert(rule(text, known, tasks)) for text in options.alerts],
        unit="bytes" if options.files else "entries",
        quiet=options.quiet,
        webhook=options.webhook,
    )
    drain_s = duration_s(options.drain_timeout)
    async with AsyncClient(settings) as client, _parts(options, client) as (source, sink):
        if options.metrics_port is not None:
            watching.serve(options.metrics_host, options.metrics_port)
        if not await client.workers_alive():
            log.warning("no worker is alive; start one with `moodq worker`, or `moodq up` for everything")
        pump = Pump(client, source, sink, Work(tasks, options.queue, options.lang), watching.seen)
        running = asyncio.create_task(pump.run())
        signals = _Signals(pump)
        looking = [asyncio.create_task(_look(watching)), asyncio.create_task(_tend(source, watching))]
        try:
            await _first(running, signals.first.wait())
            if not running.done():
                await _first(running, signals.second.wait(), timeout_s=drain_s)
            if not running.done():
                _leave(EXIT_INTERRUPTED if signals.second.is_set() else EXIT_UNFINISHED)
            return await _ended(running)
        finally:
            await _end(running, *looking)
            await asyncio.to_thread(watching.close)


async def _end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel ``tasks``, again and again: a cancellation may be lost within a Redis command, whose task then
    goes on."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=STEP_S)
    await asyncio.gather(*tasks, return_exceptions=True)


async def _first(
    running: asyncio.Task[None], other: Coroutine[Any, Any, Any], timeout_s: float | None = None
) -> None:
    """Until one of them ends, or time is up."""
    waiting = asyncio.create_task(other)
    await asyncio.wait((running, waiting), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


async def _ended(running: asyncio.Task[None]) -> int:
    try:
        await running
    except BrokenPipeError:
        # What Python still holds for standard output has nowhere to go either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_NO_READER
    return 0


def _leave(code: int) -> NoReturn:
    """As a kill would, for a thread may hang in a write that nobody takes. Nothing is lost by it."""
    log.warning("not all that was read is written; it comes again at the next start")
    os._exit(code)


class _Signals:
    """SIGINT and SIGTERM: the first stops ``pump``, the second waits for nothing."""

    def __init__(self, pump: Pump) -> None:
        self.first, self.second = asyncio.Event(), asyncio.Event()
        self._pump = pump
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, self._came)

    def _came(self) -> None:
        if self.first.is_set():
            self.second.set()
        self.first.set()
        self._pump.stop()


@asynccontextmanager
async def _parts(options: Options, client: AsyncClient) -> AsyncIterator[tuple[Source, Sink]]:
    reading = Reading(options.form == "jsonl", options.text_column, options.names(options.columns))
    async with contextlib.AsyncExitStack() as opened:
        redis = None
        if not options.files or options.to_stream:
            redis = await connect_async(client.settings)
            opened.push_async_callback(close_async, redis)
        sink: Sink
        if options.to_stream and redis is not None:
            sink = StreamSink(redis, options.to_stream, options.max_entries)
        else:
            sink = LineSink(options.output)
        opened.push_async_callback(sink.close)
        source: Source
        if options.files:
            source = _files(options, reading)
        else:
            assert redis is not None  # noqa: S101 - see above
            group = Group(
                options.group, options.consumer or f"{socket.gethostname()}-{os.getpid()}", options.field,
                duration_s(options.claim_after), options.begin == "start",
            )  # fmt: skip
            source = GroupSource(redis, group, reading, options.streams, options.lists)
        try:
            yield source, sink
        finally:
            try:
                await source.close()
            except (RedisError, MoodqError) as error:
                log.info("the consumer stays in its group (%s)", type(error).__name__)


def _files(options: Options, reading: Reading) -> FileSource:
    path = options.checkpoint
    if path is None and options.output is not None:
        path = options.output.with_name(options.output.name + ".checkpoint")
    if path is None:
        log.warning("without --checkpoint or -o the places in the files are not kept: a restart begins anew")
    return FileSource(
        options.files,
        reading,
        joining=joining(options.multiline, duration_s(options.multiline_pause))
        if options.multiline
        else None,
        checkpoint=CheckpointFile(path) if path is not None else None,
        from_start=options.begin == "start",
    )


async def _look(watching: Watching) -> None:
    while True:
        await asyncio.sleep(STEP_S)
        watching.step(time.monotonic())


async def _tend(source: Source, watching: Watching) -> None:
    while True:
        with contextlib.suppress(RedisError, MoodqError, OSError):  # of an outage the pump tells
            watching.lag = await source.tend()
        await asyncio.sleep(TEND_S)


class _Seldom(logging.Filter):
    """Lets one and the same line through once a minute: many waits tell of one outage."""

    def __init__(self) -> None:
        super().__init__()
        self._told_at: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        message, now = record.getMessage(), time.monotonic()
        self._told_at = {line: at for line, at in self._told_at.items() if now - at < SAME_LINE_S}
        return self._told_at.setdefault(message, now) == now


@contextmanager
def _told() -> Iterator[None]:
    """What the modules log goes to standard error, as this command's lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("moodq: %(message)s"))
    handler.addFilter(_Seldom())
    root = logging.getLogger("moodq_producer")
    root.addHandler(handler)
    level, root.level = root.level, logging.WARNING
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
