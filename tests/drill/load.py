"""Traffic while the drill looks: messages, imports, texts that come again, and some that are wrong."""

from __future__ import annotations

import itertools
import math
import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import uuid4

from redis import Redis
from rq.queue import Queue
from rq.serializers import JSONSerializer

from moodq_config.names import JOB_FUNCTION
from moodq_config.settings import load_settings
from moodq_producer import Client
from moodq_worker.demo import messages

PULSE_S = 40.0  # the messages come in waves


def push(connection: Redis, items: Sequence[dict[str, Any]], queue: str = "interactive") -> str:
    """Enqueue as any RQ producer does, past every check of moodq's clients."""
    job = Queue(queue, connection=connection, serializer=JSONSerializer).enqueue_call(
        JOB_FUNCTION, args=({"v": 1, "items": list(items)},), job_id=uuid4().hex, timeout=-1, result_ttl=600
    )
    return str(job.id)


def item(text: str, tasks: Sequence[str] = ("sentiment",), **fields: object) -> dict[str, Any]:
    return {"id": uuid4().hex, "text": text, "tasks": list(tasks), **fields}


class Load:
    """``per_s`` messages a second at most, and an import of 60 texts every three seconds. With the fake
    engine texts ask for the time that they take."""

    def __init__(self, redis_url: str, *, fake: bool, per_s: float) -> None:
        self._redis_url = redis_url
        self._settings = load_settings(redis_url=redis_url)
        self._fake = fake
        self._per_s = per_s
        self._texts = [one.text for one in messages()]
        self._random = random.Random(7)
        self._number = itertools.count()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._every, args=(pause, act), daemon=True)
            for pause, act in (
                (self._pause, self._message),
                (lambda: 3.0, self._import),
                (lambda: 1.5, self._trouble),
            )
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _every(self, pause: Callable[[], float], act: Callable[[Client], None]) -> None:
        with Client(self._settings) as client:
            while not self._stop.wait(pause()):
                act(client)

    def _pause(self) -> float:
        wave = 0.55 + 0.45 * math.sin(time.monotonic() / PULSE_S * 2 * math.pi)
        return self._random.expovariate(self._per_s * wave)

    def _text(self) -> str:
        text = f"{self._random.choice(self._texts)} ({next(self._number)})"
        spent = f"[[sleep {self._random.uniform(0.01, 0.04):.3f}]] " if self._fake else ""
        sour = " bad" if self._fake and self._random.random() < 0.3 else ""
        return spent + text + sour

    def _message(self, client: Client) -> None:
        tasks = ("sentiment", "reply") if self._random.random() < 0.3 else ("sentiment",)
        text = self._text()
        client.submit(text + (" [[step 0.01]]" if self._fake and len(tasks) > 1 else ""), tasks)

    def _import(self, client: Client) -> None:
        texts = [self._text() for _ in range(60)]
        for _ in client.submit_many(texts, ("sentiment", "intent"), chunk=20):
            pass

    def _trouble(self, client: Client) -> None:
        client.submit("the very same text", "sentiment")
        with Redis.from_url(self._redis_url) as connection:
            push(connection, [item("  "), item("fine", ("no_such_task",))])
            if self._fake and self._random.random() < 0.2:
                push(connection, [item("[[raise]]")])


def outdated(connection: Redis, age_s: float) -> None:
    """A message that was sent so long ago."""
    job_id = push(connection, [item("fine")])
    then = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(time.time() - age_s))
    connection.hset(f"rq:job:{job_id}", "enqueued_at", then)
    key = "rq:queue:interactive"
    connection.lrem(key, -1, job_id)
    connection.lpush(key, job_id)  # the queue's head is its oldest
