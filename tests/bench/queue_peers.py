"""Other queue workers with an empty function, and with the model behind it: RQ, Celery, dramatiq, SAQ.

``python -m tests.bench.queue_peers KIND`` is a worker of that kind, one process with one job at a time, as
its users would start it; ``push`` enqueues for it. ``BENCH_QUEUE_URL`` names the server.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Any

from redis import Redis

QUEUE = "bench"
#: What a kind needs beside moodq's own packages.
KINDS = {"rq-simple": "rq", "rq-forking": "rq", "celery": "celery", "dramatiq": "dramatiq", "saq": "saq"}
FUNCTIONS = ("empty", "sentiment")

_labeller: Any = None


def empty(text: str) -> str:
    """What every peer runs when only the queue is measured."""
    return "positive"


def sentiment(text: str) -> str:
    """The article's way on the real model, loaded once per process: greedy generation of a few tokens."""
    from moodq_config.tasks import detect_lang

    from .article import ArticleModel

    global _labeller
    if _labeller is None:
        _labeller = ArticleModel(os.environ["BENCH_MODEL"], os.environ["BENCH_PRECISION"])
    return str(_labeller.run([(text, detect_lang(text))])["labels"][0])


async def saq_empty(context: Any, *, text: str) -> str:
    return empty(text)


def url() -> str:
    return os.environ["BENCH_QUEUE_URL"]


def missing(kind: str) -> bool:
    return importlib.util.find_spec(KINDS[kind]) is None


def push(kind: str, function: str, texts: Sequence[str]) -> None:
    """Enqueue one job a text, as a producer of that library does."""
    _PUSH[kind.split("-")[0]](function, texts)


def left(kind: str, server: Any) -> int:
    """Jobs that still wait."""
    key = {"rq": f"rq:queue:{QUEUE}", "celery": QUEUE, "dramatiq": f"dramatiq:{QUEUE}"}
    return int(server.llen(key.get(kind.split("-")[0], f"saq:{QUEUE}:queued")))


def _push_rq(function: str, texts: Sequence[str]) -> None:
    from rq.queue import Queue

    with Redis.from_url(url()) as connection:
        queue = Queue(QUEUE, connection=connection)
        path = f"{__package__}.queue_peers.{function}"
        queue.enqueue_many([Queue.prepare_data(path, (text,)) for text in texts])


def _celery() -> Any:
    from celery import Celery

    app = Celery("bench", broker=url(), backend=url())
    app.conf.update(task_default_queue=QUEUE)
    for function in (empty, sentiment):
        app.task(function, name=function.__name__)
    return app


def _push_celery(function: str, texts: Sequence[str]) -> None:
    app = _celery()
    for text in texts:
        app.send_task(function, args=(text,))
    app.close()


def _dramatiq() -> Any:
    import dramatiq
    from dramatiq.brokers.redis import RedisBroker

    make: Any = RedisBroker
    broker = make(url=url())
    dramatiq.set_broker(broker)
    declare: Any = dramatiq.actor
    return broker, declare(empty, queue_name=QUEUE)


def _push_dramatiq(function: str, texts: Sequence[str]) -> None:
    _, actor = _dramatiq()
    for text in texts:
        actor.send(text)


def _saq() -> Any:
    from saq import Queue

    return Queue.from_url(url(), name=QUEUE)


def _push_saq(function: str, texts: Sequence[str]) -> None:
    async def push_all() -> None:
        queue = _saq()
        for text in texts:
            await queue.enqueue("saq_empty", text=text)
        await queue.disconnect()

    asyncio.run(push_all())


_PUSH: dict[str, Callable[[str, Sequence[str]], None]] = {
    "rq": _push_rq,
    "celery": _push_celery,
    "dramatiq": _push_dramatiq,
    "saq": _push_saq,
}


def _work_rq(worker: str) -> None:
    from rq import SimpleWorker, Worker

    kind: Any = SimpleWorker if worker == "rq-simple" else Worker
    kind([QUEUE], connection=Redis.from_url(url())).work(logging_level="WARNING")


def main(kind: str) -> None:
    if kind.startswith("rq"):
        _work_rq(kind)
    elif kind == "celery":
        arguments = ["worker", "--pool", "solo", "--loglevel", "WARNING", "--without-mingle"]
        _celery().worker_main([*arguments, "--without-gossip"])
    elif kind == "dramatiq":
        from dramatiq.worker import Worker

        broker, _ = _dramatiq()
        worker = Worker(broker, worker_threads=1)
        worker.start()
        threading.Event().wait()
    elif kind == "saq":
        from saq import Worker as SaqWorker

        asyncio.run(SaqWorker(_saq(), functions=[saq_empty], concurrency=1).start())


if __name__ == "__main__":
    main(sys.argv[1])
