"""``moodq follow`` as a process, against real servers and real worker processes: what it is killed in."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from redis import Redis

from chaos.servers import Server
from moodq_config.settings import load_settings
from moodq_producer import AsyncClient
from moodq_producer.pins import Pin, store_pins
from moodq_producer.stream.files import FileSource
from moodq_producer.stream.pump import Pump, Work
from moodq_producer.stream.records import Reading
from moodq_producer.stream.sinks import LineSink

MAIN = "from moodq_config.cli import main; main()"
WAIT_S = 60.0

#: For what is of files, and so the same on every server.
on_valkey = pytest.mark.parametrize("server_url", ["valkey"], indirect=True)


class Follow:
    """A process of ``moodq follow``, its standard output and error in files."""

    def __init__(self, redis_url: str, home: Path, *args: str) -> None:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
        self._home = home
        self.errors = home / f"follow-{time.monotonic_ns()}.err"
        self.output = self.errors.with_suffix(".out")
        with self.errors.open("wb") as errors, self.output.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", MAIN, "follow", *args],
                stdout=output,
                stderr=errors,
                cwd=home,
                env={**clean, "MOODQ_REDIS_URL": redis_url, "PYTHONUTF8": "1"},
            )

    def told(self) -> str:
        return self.errors.read_text("utf-8")

    def until(self, what: Callable[[], object]) -> None:
        """Wait until ``what`` holds."""
        deadline = time.monotonic() + WAIT_S
        while not what():
            assert self.process.poll() is None, self.told()
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.02)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(WAIT_S)

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)


StartFollow = Callable[..., Follow]


@pytest.fixture
def start_follow_at(tmp_path: Path) -> Iterator[StartFollow]:
    """Starts ``moodq follow`` in ``tmp_path``, the server's URL first; what runs at the end is killed."""
    started: list[Follow] = []

    def start(url: str, *args: str) -> Follow:
        started.append(Follow(url, tmp_path, *args))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.kill()


@pytest.fixture
def start_follow(start_follow_at: StartFollow, redis_url: str) -> StartFollow:
    """The same on the server of the session."""
    return partial(start_follow_at, redis_url)


def rows(path: Path) -> list[dict[str, Any]]:
    """The whole lines of an output."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def texts(path: Path) -> list[str]:
    return [row["text"] for row in rows(path)]


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not what():  # noqa: ASYNC110 - it is a file that is waited for
            await asyncio.sleep(0.02)


def append(path: Path, *lines: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(f"{line}\n" for line in lines))


def assert_no_gap_and_doubles_by_id(found: list[dict[str, Any]], wanted: list[str]) -> None:
    by_id: dict[str, str] = {}
    for row in found:
        assert by_id.setdefault(row["id"], row["text"]) == row["text"]
    assert list(by_id.values()) == wanted


@contextmanager
def hooks() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A receiver of webhooks, whose first answer is an error: its URL, and what it was posted."""
    posted: list[dict[str, Any]] = []
    tries = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            tries.append(1)
            if len(tries) > 1:
                posted.append(json.loads(body))
            self.send_response(503 if len(tries) == 1 else 204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/secret-path", posted
        finally:
            server.shutdown()
            thread.join()


@on_valkey
@pytest.mark.usefixtures("fake_worker")
def test_lines_are_labelled_as_they_come_through_rotation_and_truncation(
    start_follow: StartFollow, tmp_path: Path, connection: Redis
) -> None:
    log, out = tmp_path / "a.log", tmp_path / "out.jsonl"
    append(log, "from before")
    follow = start_follow("a.log", "b*.log", "-o", "out.jsonl")
    follow.until((tmp_path / "out.jsonl.checkpoint").exists)
    append(log, "all is well", "a bad day")
    follow.until(lambda: len(rows(out)) == 2)
    append(log, "the last of the old file")
    log.rename(tmp_path / "a.log.1")
    append(log, "很差")
    append(tmp_path / "b1.log", "of another file")
    follow.until(lambda: len(rows(out)) == 5)
    log.write_text("")
    append(log, "after the truncation")
    follow.until(lambda: len(rows(out)) == 6)
    assert follow.stop() == 0, follow.told()
    found = rows(out)
    mine = [row["text"] for row in found if row["file"] == "a.log"]
    assert mine == ["all is well", "a bad day", "the last of the old file", "很差", "after the truncation"]
    assert [row["results"]["sentiment"]["label"] for row in found[:2]] == ["positive", "negative"]
    assert len({row["id"] for row in found}) == 6
    assert not list(connection.scan_iter("moodq:result:*"))  # nobody needs them any more


@on_valkey
@pytest.mark.usefixtures("fake_worker")
def test_killed_again_and_again_it_leaves_no_gap_and_doubles_have_the_same_id(
    start_follow: StartFollow, tmp_path: Path
) -> None:
    log, out = tmp_path / "a.log", tmp_path / "out.jsonl"
    written: list[str] = []
    for life in range(3):
        follow = start_follow("a.log", "--from", "start", "-o", "out.jsonl")
        follow.until((tmp_path / "out.jsonl.checkpoint").exists)  # from here on it misses nothing
        before = len(rows(out))
        some = [f"line {len(written) + number}" for number in range(1_200)]
        written += some
        append(log, *some[:600])
        log.rename(tmp_path / f"a.log.{life}")
        append(log, *some[600:])
        follow.until(lambda before=before: len(rows(out)) > before + 300)  # type: ignore[misc]
        follow.kill()
        with out.open("ab") as torn:
            torn.write(b'{"id": "torn')
    follow = start_follow("a.log", "--from", "start", "-o", "out.jsonl")
    follow.until(lambda: len({row["id"] for row in rows(out)}) >= len(written))
    assert follow.stop(signal.SIGINT) == 0, follow.told()
    assert_no_gap_and_doubles_by_id(rows(out), written)


@on_valkey
@pytest.mark.usefixtures("fake_worker")
def test_a_pinned_label_is_given_to_the_lines_of_its_kind_and_told_as_such(
    start_follow: StartFollow, tmp_path: Path, connection: Redis
) -> None:
    store_pins(connection, [Pin("sentiment", "disk <*> is full", "negative")])
    append(tmp_path / "a.log", "disk 7 is full", "all is well")
    follow = start_follow("a.log", "--from", "start")
    follow.until(lambda: len(rows(follow.output)) == 2)
    assert follow.stop() == 0, follow.told()
    found = [(row["results"]["sentiment"]["label"], row.get("cached")) for row in rows(follow.output)]
    assert found == [("negative", "pinned"), ("positive", None)]


@on_valkey
@pytest.mark.usefixtures("fake_worker")
def test_a_stack_trace_is_one_record(start_follow: StartFollow, tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    follow = start_follow("a.log", "--from", "start", "--multiline", r"^\d{4}-", "--multiline-pause", "300ms")
    append(log, "2026-01-01 bad: it failed", "  at one", "  at two", "2026-01-02 fine")
    follow.until(lambda: len(rows(follow.output)) == 2)
    assert follow.stop() == 0, follow.told()
    assert texts(follow.output) == ["2026-01-01 bad: it failed\n  at one\n  at two", "2026-01-02 fine"]


@on_valkey
@pytest.mark.usefixtures("fake_worker")
def test_json_lines_give_their_text_and_bad_ones_fail_alone(
    start_follow: StartFollow, tmp_path: Path
) -> None:
    follow = start_follow(
        "a.jsonl", "--from", "start", "--format", "jsonl", "--text-column", "message", "--columns", "host"
    )
    append(tmp_path / "a.jsonl", '{"message": "a bad day", "host": "h1"}', "not JSON", '{"message": ""}')
    follow.until(lambda: len(rows(follow.output)) == 3)
    assert follow.stop() == 0, follow.told()
    good, *bad = rows(follow.output)
    assert (good["text"], good["columns"]) == ("a bad day", {"host": "h1"})
    assert [row["error"]["code"] for row in bad] == ["invalid_field", "empty_text"]


@pytest.mark.usefixtures("fake_worker")
def test_entries_are_acknowledged_only_after_their_results_are_in_the_other_stream(
    start_follow: StartFollow, connection: Redis
) -> None:
    server: Any = connection
    for number in range(250):
        server.xadd("reviews", {"text": f"fine {number}", "shop": "s"})
    follow = start_follow(
        "--stream", "reviews", "--from", "start", "--to-stream", "labels", "--columns", "shop"
    )
    follow.until(lambda: server.xlen("labels") >= 250)
    server.xadd("reviews", {"text": "bad"})
    server.xadd("reviews", {"other": "no text"})
    follow.until(lambda: server.xlen("labels") >= 252)
    assert follow.stop() == 0, follow.told()
    found = [json.loads(entry[b"data"]) for _, entry in server.xrange("labels")]
    assert [row["text"] for row in found[:250]] == [f"fine {number}" for number in range(250)]
    assert found[0]["columns"] == {"shop": "s"}
    assert found[250]["results"]["sentiment"]["label"] == "negative"
    assert "no field 'text'" in found[251]["error"]["message"]
    [group] = server.xinfo_groups("reviews")
    assert (group["pending"], group["lag"], group["consumers"]) == (0, 0, 0)


@pytest.mark.usefixtures("fake_worker")
def test_the_entries_of_a_dead_consumer_are_taken_over_and_those_of_a_living_one_are_not(
    start_follow: StartFollow, connection: Redis, tmp_path: Path
) -> None:
    server: Any = connection
    server.xgroup_create("reviews", "moodq", "0", mkstream=True)
    wanted = [f"line {number}" for number in range(300)]
    wanted[-1] += " [[sleep 5]]"  # longer in hand than an entry may be left alone
    for text in wanted:
        server.xadd("reviews", {"text": text})
    server.xreadgroup("moodq", "dead", {"reviews": ">"}, count=120)  # and then it died
    options = ("--stream", "reviews", "--claim-after", "2s", "-o")
    both = [start_follow(*options, f"{name}.jsonl", "--consumer", name) for name in "ab"]
    out = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    both[0].until(lambda: len(rows(out[0])) + len(rows(out[1])) >= 300)
    assert sorted(texts(out[0]) + texts(out[1])) == sorted(wanted)
    taken = re.findall(r"took over (\d+)", both[0].told() + both[1].told())
    assert sum(map(int, taken)) == 120  # the dead one's, and no other
    wanted += [f"line {number}" for number in range(300, 900)]
    for text in wanted[300:]:
        server.xadd("reviews", {"text": text})
    both[0].until(lambda: len(rows(out[0])) + len(rows(out[1])) >= 400)
    both[0].kill()
    both[1].until(lambda: len({*texts(out[0]), *texts(out[1])}) == 900)
    both[1].until(lambda: server.xinfo_groups("reviews")[0]["pending"] == 0)
    assert both[1].stop() == 0, both[1].told()
    found = rows(out[0]) + rows(out[1])
    assert sorted({row["text"] for row in found}) == sorted(wanted)
    assert len({row["id"] for row in found}) == 900


@pytest.mark.usefixtures("fake_worker")
def test_a_killed_consumer_that_comes_back_under_its_name_goes_on_with_what_it_had(
    start_follow: StartFollow, connection: Redis
) -> None:
    server: Any = connection
    server.xgroup_create("reviews", "moodq", "0", mkstream=True)
    for number in range(300):
        server.xadd("reviews", {"text": f"line {number}"})
    server.xreadgroup("moodq", "me", {"reviews": ">"}, count=250)
    server.xtrim("reviews", maxlen=280, approximate=False)  # twenty of them are gone for everybody
    follow = start_follow("--stream", "reviews", "--consumer", "me")
    follow.until(lambda: len(rows(follow.output)) == 280)
    assert follow.stop() == 0, follow.told()
    assert texts(follow.output) == [f"line {number}" for number in range(20, 300)]
    assert server.xinfo_groups("reviews")[0]["pending"] == 0


@pytest.mark.usefixtures("fake_worker")
def test_a_list_that_others_push_to_is_moved_and_nothing_of_it_is_lost_by_a_kill(
    start_follow: StartFollow, connection: Redis, tmp_path: Path
) -> None:
    server: Any = connection
    options = (
        "--list",
        "logs",
        "--format",
        "jsonl",
        "--text-column",
        "message",
        "-o",
        "out.jsonl",
        "--consumer",
        "me",
    )
    wanted = [f"line {number}" for number in range(2_000)]
    follow = start_follow(*options)
    server.rpush("logs", *(json.dumps({"message": text}) for text in wanted))
    follow.until(lambda: len(rows(tmp_path / "out.jsonl")) > 100)
    follow.kill()
    follow = start_follow(*options)
    follow.until(lambda: len({row["id"] for row in rows(tmp_path / "out.jsonl")}) >= 2_000)
    assert follow.stop() == 0, follow.told()
    assert_no_gap_and_doubles_by_id(
        rows(tmp_path / "out.jsonl"), [f"line {number}" for number in range(2_000)]
    )
    assert server.xlen("moodq:list:logs") == 0


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts a server of the test's own, and a worker on it."""
    started: list[Server] = []
    workers: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> Server:
        server = Server(tmp_path / "server", *options).start()
        started.append(server)
        clean = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
        env = {
            **clean, "MOODQ_ENGINE": "fake", "MOODQ_REDIS_URL": server.url, "MOODQ_METRICS_PORT": "0",
            "MOODQ_LEASE_S": "2", "MOODQ_DATA_DIR": str(tmp_path / "data"),
        }  # fmt: skip
        with (tmp_path / "worker.log").open("wb") as log:
            workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "moodq_worker"], env=env, cwd=tmp_path, stdout=log, stderr=log
                )
            )
        return server

    yield start
    for worker in workers:
        worker.kill()
        worker.wait(WAIT_S)
    for server in started:
        server.close()


@pytest.mark.parametrize("keeps", ["yes", "no"], ids=["append-only file", "memory only"])
def test_a_restart_of_redis_in_the_middle_loses_no_line(
    start_follow_at: StartFollow, own_server: Callable[..., Server], tmp_path: Path, keeps: str
) -> None:
    server = own_server("--appendonly", keeps)
    log, out = tmp_path / "a.log", tmp_path / "out.jsonl"
    follow = start_follow_at(server.url, "a.log", "--from", "start", "-o", "out.jsonl")
    append(log, *(f"line {number}" for number in range(3_000)))
    follow.until(lambda: len(rows(out)) > 200)
    server.kill()
    append(log, *(f"line {number}" for number in range(3_000, 3_200)))
    follow.until(lambda: "does not answer" in follow.told())
    server.start()
    follow.until(lambda: len(rows(out)) >= 3_200)
    assert follow.stop() == 0, follow.told()
    assert texts(out) == [f"line {number}" for number in range(3_200)]


async def test_an_outage_that_clients_give_up_on_is_waited_for(
    own_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = own_server()
    append(tmp_path / "a.log", *(f"line {number}" for number in range(3_000)))
    source = FileSource([str(tmp_path / "a.log")], Reading(), from_start=True)
    sink = LineSink(tmp_path / "out.jsonl")
    async with AsyncClient(load_settings(redis_url=server.url, away_timeout_s=0.5)) as client:
        pump = Pump(client, source, sink, Work(("sentiment",), "bulk"), lambda _: None)
        running = asyncio.create_task(pump.run())
        await until(lambda: len(texts(tmp_path / "out.jsonl")) > 200)
        server.kill()
        await asyncio.sleep(3)
        assert not running.done()
        server.start()
        await until(lambda: running.done() or len(texts(tmp_path / "out.jsonl")) >= 3_000)
        pump.stop()
        await running
    await source.close()
    await sink.close()
    assert texts(tmp_path / "out.jsonl") == [f"line {number}" for number in range(3_000)]


def test_a_restart_of_redis_in_the_middle_loses_no_entry(
    start_follow_at: StartFollow, own_server: Callable[..., Server], tmp_path: Path
) -> None:
    server = own_server()
    follow = start_follow_at(
        server.url, "--stream", "in", "--from", "start", "--claim-after", "2s", "-o", "out.jsonl"
    )
    out = tmp_path / "out.jsonl"
    for number in range(2_000):
        server.client.xadd("in", {"text": f"line {number}"})
    follow.until(lambda: len(rows(out)) > 100)
    server.kill()
    time.sleep(1)
    server.start()
    for number in range(2_000, 2_100):
        server.client.xadd("in", {"text": f"line {number}"})
    follow.until(lambda: len({row["id"] for row in rows(out)}) >= 2_100)
    follow.until(lambda: server.client.xinfo_groups("in")[0]["pending"] == 0)
    assert follow.stop() == 0, follow.told()
    by_id = {row["id"]: row["text"] for row in rows(out)}
    assert sorted(by_id.values()) == sorted(f"line {number}" for number in range(2_100))


@on_valkey
@pytest.mark.usefixtures("fake_worker")
def test_an_alert_fires_and_is_cleared_and_both_reach_the_webhook(
    start_follow: StartFollow, tmp_path: Path
) -> None:
    with hooks() as (url, posted):
        follow = start_follow(
            "a.log", "--from", "start", "--alert", "negative>0.4 over 3s min 10", "--webhook", url,
            "--window", "1s", "--metrics-port", "0",
        )  # fmt: skip
        append(tmp_path / "a.log", *(f"bad {number}" for number in range(20)))
        follow.until(lambda: len(posted) == 1)
        page = metrics_of(follow)
        assert 'moodq_follow_alert_firing{alert="negative>0.4 over 3s min 10"} 1.0' in page
        assert 'moodq_follow_records_total{outcome="done"} 20.0' in page
        append(tmp_path / "a.log", *(f"fine {number}" for number in range(80)))
        follow.until(lambda: len(posted) == 2)
        follow.until(lambda: 'moodq_follow_lag_bytes{source="a.log"} 0.0' in metrics_of(follow))
        page = metrics_of(follow)
        assert follow.stop() == 0, follow.told()
    assert [(event["state"], event["label"]) for event in posted] == [
        ("firing", "negative"),
        ("cleared", "negative"),
    ]
    assert posted[0]["share"] == 1.0
    assert posted[0]["text"].startswith("firing: negative>0.4")
    assert 'moodq_follow_label_share{label="negative",task="sentiment",window="1s"}' in page
    assert 'moodq_follow_webhooks_total{outcome="sent"} 2.0' in page
    assert "last 1s: " in follow.told()
    assert "secret-path" not in follow.told()


def metrics_of(follow: Follow) -> str:
    follow.until(lambda: "metrics at " in follow.told())
    url = follow.told().partition("metrics at ")[2].split()[0]
    with urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@on_valkey
def test_it_waits_for_a_worker_and_tells_how_to_start_one(
    start_follow: StartFollow, start_fake_worker: Callable[..., Any], tmp_path: Path
) -> None:
    append(tmp_path / "a.log", "fine")
    follow = start_follow("a.log", "--from", "start")
    follow.until(lambda: "start one with `moodq worker`" in follow.told())
    start_fake_worker()
    follow.until(lambda: len(rows(follow.output)) == 1)
    assert follow.stop() == 0


@on_valkey
def test_what_is_not_finished_in_time_is_told_and_comes_again(
    start_follow: StartFollow, start_fake_worker: Callable[..., Any], tmp_path: Path, connection: Redis
) -> None:
    append(tmp_path / "a.log", "fine")
    options = ("a.log", "--from", "start", "-o", "out.jsonl", "--drain-timeout", "500ms")
    follow = start_follow(*options)
    follow.until(lambda: connection.llen("rq:queue:bulk"))
    assert follow.stop() == 4
    assert "comes again at the next start" in follow.told()
    start_fake_worker()
    follow = start_follow(*options)
    follow.until(lambda: rows(tmp_path / "out.jsonl"))
    assert follow.stop() == 0
    assert texts(tmp_path / "out.jsonl") == ["fine"]


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "name files to follow"),
        (["-"], "use `moodq tag -`"),
        (["a.log", "--stream", "s"], "name files to follow"),
        (["--stream", "s", "--to-stream", "s"], "is followed itself"),
        (["--stream", "s", "--multiline", "x"], "are for files"),
        (["a.log", "--alert", "negativ>0.4 over 5m"], "sentiment has no label 'negativ'"),
        (["a.log", "--alert", "negative>0.4 over 5m", "--webhook", "ftp://x"], "no URL of http"),
        (["--stream", "s", "--claim-after", "1s"], "at least 2s"),
        (["a.log", "--window", "5"], "'5' is no duration"),
        (["a.log", "--multiline", "("], "no regular expression"),
    ],
)
def test_what_cannot_be_is_refused_with_exit_code_2(
    start_follow_at: StartFollow, args: list[str], told: str
) -> None:
    follow = start_follow_at("redis://127.0.0.1:1/0", *args)
    assert follow.process.wait(WAIT_S) == 2
    assert told in follow.told()


@pytest.mark.usefixtures("fake_worker")
def test_what_redis_refuses_for_good_ends_it_with_exit_code_4(
    start_follow: StartFollow, connection: Redis
) -> None:
    connection.set("reviews", "no stream")
    follow = start_follow("--stream", "reviews")
    assert follow.process.wait(WAIT_S) == 4
    assert "Redis refuses a command (ResponseError WRONGTYPE)" in follow.told()
    assert "Traceback" not in follow.told()


def test_without_redis_it_ends_at_once_with_exit_code_4(start_follow_at: StartFollow) -> None:
    follow = start_follow_at("redis://127.0.0.1:1/0", "a.log")
    assert follow.process.wait(WAIT_S) == 4
    assert "MOODQ_REDIS_URL" in follow.told()
