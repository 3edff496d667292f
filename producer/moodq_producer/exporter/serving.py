"""The exporter's pages, until it is told to stop."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

import click
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import choose_encoder

from moodq_config.errors import Unavailable
from moodq_config.http_pages import MakePage, Page, PageServer
from moodq_producer.exporter.collector import QueueWideCollector
from moodq_producer.exporter.reading import Reader
from moodq_producer.exporter.targets import TargetsFile, targets_json


def serve(reader: Reader, host: str, port: int, targets: Path | None) -> None:
    """Until SIGTERM or SIGINT. Raises ``Unavailable`` (port_taken); ``OSError`` if ``targets`` cannot be
    written."""
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    server = PageServer(host, port, pages(reader), option="--port")
    click.echo(f"moodq exporter: http://{host}:{server.port}/metrics and /targets", err=True)
    file = TargetsFile(reader, targets) if targets else None
    try:
        if file:
            file.start()
        while not ended.wait(3600):
            pass
    finally:
        if file:
            file.stop()
        server.close()


def print_once(reader: Reader, targets: Path | None) -> None:
    """Raises ``Unavailable``; ``OSError`` as ``serve``."""
    reader.read()
    click.echo(generate_latest(_registry(reader)).decode(), nl=False)
    if targets:
        targets.write_bytes(targets_json(reader))


def pages(reader: Reader) -> dict[str, MakePage]:
    registry = _registry(reader)

    def metrics(accept: str) -> Page:
        encode, content_type = choose_encoder(accept)
        return Page(encode(registry), content_type=content_type)

    def discovered(accept: str) -> Page:
        try:
            return Page(targets_json(reader), content_type="application/json")
        except Unavailable as error:
            return Page(f"{error}\n".encode(), 503)

    return {"/metrics": metrics, "/targets": discovered, "/healthz": lambda accept: Page(b"ok\n")}


def _registry(reader: Reader) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(QueueWideCollector(reader))
    return registry
