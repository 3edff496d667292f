"""Log records tagged in the background: none makes the program wait, and each is tagged once or counted."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from chaos.servers import Server
from moodq_config.contracts import Result
from moodq_config.errors import BadInput, ConfigError
from moodq_config.names import RESULT_PREFIX
from moodq_producer import LabelScores
from moodq_producer.logging import MoodqHandler, to_jsonl, to_logger

LONG_S = 60.0
NOWHERE = "redis://127.0.0.1:1/0"

Attach = Callable[..., MoodqHandler]


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("a.program")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    logger.propagate = True


@pytest.fixture
def attach(logger: logging.Logger) -> Iterator[Attach]:
    """Makes a handler and puts it on ``logger``, or another; all are closed after the test."""
    made: list[tuple[logging.Logger, MoodqHandler]] = []

    def make(*args: object, on: logging.Logger = logger, **options: object) -> MoodqHandler:
        handler = MoodqHandler(*args, **{"close_timeout_s": LONG_S, **options})  # type: ignore[arg-type]
        made.append((on, handler))
        on.addHandler(handler)
        return handler

    yield make
    for on, handler in made:
        on.removeHandler(handler)
        handler._close_timeout_s = 0.2
        handler.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.usefixtures("fake_worker")
def test_every_record_comes_back_with_its_own_result(
    redis_url: str, logger: logging.Logger, attach: Attach
) -> None:
    found: dict[str, tuple[logging.LogRecord, Result]] = {}
    handler = attach(
        redis_url,
        "sentiment",
        on_result=lambda record, result: found.update({record.getMessage(): (record, result)}),
    )
    for number in range(250):
        logger.warning("%s 第 %d 行", "terrible" if number % 2 else "很好", number)
    try:
        raise ValueError("boom")
    except ValueError:
        logger.exception("it went wrong")
    handler.close()
    assert len(found) == 251
    for number in range(250):
        record, result = found[f"{'terrible' if number % 2 else '很好'} 第 {number} 行"]
        assert (record.name, record.levelname, record.args) == ("a.program", "WARNING", None)
        assert result.answer("sentiment", LabelScores).label == ("negative" if number % 2 else "positive")
        assert result.metadata == {"logger": "a.program", "level": "WARNING"}
    [with_traceback] = [text for text in found if text.startswith("it went wrong")]
    assert "ValueError: boom" in with_traceback
    assert found[with_traceback][0].exc_info is None
    counts = handler.counts
    assert (counts.taken, counts.sent, counts.answered) == (251, 251, 251)
    assert (counts.dropped, counts.refused, counts.unanswered) == (0, 0, 0)


@pytest.mark.usefixtures("fake_worker")
def test_without_a_callback_results_are_left_in_redis(
    redis_url: str, connection: Redis, logger: logging.Logger, attach: Attach
) -> None:
    handler = attach(redis_url)
    for number in range(30):
        logger.info("line %d", number)
    logger.info("  ")  # no text: refused, and nobody else with it
    handler.close()
    assert (handler.counts.sent, handler.counts.refused) == (30, 1)
    until(lambda: len(connection.keys(RESULT_PREFIX + "*")) == 30)


def test_a_program_does_not_wait_for_a_redis_that_is_away_and_what_finds_no_room_is_counted(
    logger: logging.Logger, attach: Attach
) -> None:
    handler = attach(NOWHERE, capacity=1_000)
    began = time.monotonic()
    longest = 0.0
    for number in range(20_000):
        before = time.monotonic()
        logger.info("line %d", number)
        longest = max(longest, time.monotonic() - before)
    assert time.monotonic() - began < 10.0, "half a millisecond each, on a busy machine"
    assert longest < 2.0, "no record waited as long as a connection would"
    counts = handler.counts
    assert counts.taken + counts.dropped == 20_000
    assert 1_000 <= counts.taken <= 1_000 + 100, "what has room, and a chunk in hand"


def test_records_wait_for_a_redis_that_comes_later(
    tmp_path: Path, logger: logging.Logger, attach: Attach
) -> None:
    server = Server(tmp_path / "server").start()
    try:
        server.kill()
        handler = attach(server.url, on_result=lambda record, result: None)
        logger.info("line")
        time.sleep(0.5)
        assert handler.counts.sent == 0
        server.start()
        until(lambda: handler.counts.sent == 1)
        with Redis.from_url(server.url) as connection:
            assert connection.llen("rq:queue:bulk") == 1
        server.kill()  # while the result is awaited, which comes after it is there again
        time.sleep(0.3)
        logger.info("another")
        server.start()
        until(lambda: handler.counts.sent == 2)
        assert handler.counts.dropped == 0
    finally:
        server.close()


@pytest.mark.parametrize("what", ["no redis", "no worker"])
def test_closing_ends_within_its_time_and_counts_what_was_given_up(
    what: str, redis_url: str, logger: logging.Logger, attach: Attach
) -> None:
    handler = attach(
        NOWHERE if what == "no redis" else redis_url,
        on_result=lambda record, result: None,
        close_timeout_s=0.5,
    )
    for number in range(300):
        logger.info("line %d", number)
    began = time.monotonic()
    handler.close()
    assert time.monotonic() - began < 3.0
    logger.info("after the end")
    until(lambda: handler.counts.dropped + handler.counts.unanswered == 300)
    assert handler.counts.taken == 300


@pytest.mark.usefixtures("fake_worker")
def test_moodqs_own_logs_are_never_tagged(redis_url: str, attach: Attach) -> None:
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.DEBUG)
    try:
        fails = attach(redis_url, on=root, on_result=lambda record, result: 1 / 0)
        absent = attach(NOWHERE, on=root, on_result=to_logger(logging.getLogger("results")))
        tells = attach(redis_url, on=root, on_result=to_logger(logging.getLogger("results")))
        logging.getLogger("another.program").info("one")
        until(lambda: fails.counts.answered == tells.counts.answered == 1)
        time.sleep(1.0)  # the absent one has tried again and again by now
        assert [handler.counts.taken for handler in (fails, absent, tells)] == [1, 1, 1]
    finally:
        root.setLevel(level)


@pytest.mark.usefixtures("fake_worker")
def test_results_go_to_a_logger_or_a_file(
    redis_url: str, tmp_path: Path, logger: logging.Logger, attach: Attach, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "tagged.jsonl"
    caplog.set_level(logging.INFO)
    first = attach(redis_url, "sentiment", on_result=to_jsonl(path))
    second = attach(
        redis_url, "sentiment", on_result=to_logger(logging.getLogger("results"), logging.WARNING)
    )
    logger.error("好 %s", "bad")
    first.close()
    second.close()
    [line] = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert (line["logger"], line["level"], line["text"]) == ("a.program", "ERROR", "好 bad")
    assert line["results"]["sentiment"]["label"] == "negative"
    [told] = [record for record in caplog.records if record.name == "results"]
    assert told.getMessage() == "sentiment=negative 0.90: 好 bad"
    assert isinstance(told.moodq, Result)  # type: ignore[attr-defined]


def test_what_cannot_be_is_refused_when_the_handler_is_made() -> None:
    with pytest.raises(BadInput, match="'mood' is not a task"):
        MoodqHandler(NOWHERE, "mood")
    with pytest.raises(BadInput, match="'labels' is missing"):
        MoodqHandler(NOWHERE, "topic")
    with pytest.raises(ConfigError, match="MOODQ_QUEUES"):
        MoodqHandler(NOWHERE, queue="slow")
    with pytest.raises(ConfigError, match="chunk is 0"):
        MoodqHandler(NOWHERE, chunk=0)


@pytest.mark.usefixtures("fake_worker")
def test_records_of_many_threads_are_each_tagged_once(
    redis_url: str, logger: logging.Logger, attach: Attach
) -> None:
    found: list[str] = []
    handler = attach(redis_url, on_result=lambda record, result: found.append(record.getMessage()))

    def work(name: str) -> None:
        for number in range(100):
            logger.info("%s-%d", name, number)

    threads = [threading.Thread(target=work, args=[str(name)]) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    handler.close()
    assert sorted(found) == sorted(f"{name}-{number}" for name in range(8) for number in range(100))


PROGRAM = """
import logging, os, sys
from moodq_producer.logging import MoodqHandler, to_jsonl
handler = MoodqHandler(sys.argv[1], on_result=to_jsonl(sys.argv[2]), close_timeout_s=60)
logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
for number in range(150):
    logging.info("parent %d", number)
"""
FORKS = """
child = os.fork()
who = "child" if child == 0 else "parent"
for number in range(150, 300):
    logging.info("%s %d", who, number)
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.usefixtures("fake_worker")
@pytest.mark.parametrize("forks", [False, True])
def test_a_program_that_ends_or_forks_has_each_of_its_records_tagged_once(
    forks: bool, redis_url: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    env = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + (FORKS if forks else ""), redis_url, str(out)],
        env=env, cwd=tmp_path, capture_output=True, text=True, timeout=LONG_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = [f"parent {number}" for number in range(300 if forks else 150)]
    if forks:
        expected += [f"child {number}" for number in range(150, 300)]
    found = [json.loads(line)["text"] for line in out.read_text("utf-8").splitlines()]
    assert sorted(found) == sorted(expected)
