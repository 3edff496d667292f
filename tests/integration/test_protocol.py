"""``docs/protocol.md`` does what it says: its own commands, sent as plain Redis commands to a real worker."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.connection import Connection

from moodq_config.contracts import Result
from moodq_config.errors import ErrorCode
from moodq_producer import Client

DOC = Path(__file__).parents[2] / "docs" / "protocol.md"
BLOCK = re.compile(r"^```redis (\S+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
JSON_BLOCK = re.compile(r"^```json\n(.*?)^```$", re.DOTALL | re.MULTILINE)
#: Codes of failures outside an item or a job: settings, start-up, a client's own, the gateway's.
NOT_IN_RESULTS = {
    ErrorCode.CONFIG_INVALID,
    ErrorCode.TASKS_INVALID,
    ErrorCode.REDIS_UNREACHABLE,
    ErrorCode.PORT_TAKEN,
    ErrorCode.QUEUE_FULL,
    ErrorCode.RATE_LIMITED,
    ErrorCode.NO_SUCH_RESULT,
    ErrorCode.NO_SUCH_JOB,
    ErrorCode.WAIT_TIMEOUT,
    ErrorCode.NOT_INSTALLED,
    ErrorCode.MODEL_INVALID,
    ErrorCode.MODEL_DOWNLOAD,
    ErrorCode.WARM_UP_FAILED,
    ErrorCode.UNAUTHORIZED,
    ErrorCode.NOT_FOUND,
    ErrorCode.METHOD_NOT_ALLOWED,
    ErrorCode.BODY_TOO_LARGE,
    ErrorCode.UNSUPPORTED_MEDIA_TYPE,
    ErrorCode.CALLBACK_REFUSED,
    ErrorCode.TOO_MANY_OPEN,
    ErrorCode.NO_WORKER,
}


class Wire:
    """Sends commands as they are and returns Redis' replies as they are."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __call__(self, *command: str) -> Any:
        self._connection.send_command(*command)
        return self._connection.read_response()

    def run(self, name: str, **variables: str) -> list[Any]:
        """The replies to the commands of one block of the page."""
        block = {found[1]: found[2] for found in BLOCK.finditer(DOC.read_text("utf-8"))}[name]
        replies = []
        for line in block.splitlines():
            for variable, value in variables.items():
                line = line.replace(f"${variable}", value)
            assert "$" not in line
            replies.append(self(*shlex.split(line)))
        return replies


@pytest.fixture
def wire(redis_url: str) -> Iterator[Wire]:
    # RESP2, so that a reply has the shape redis-cli shows, and a socket that outlasts BLOCK.
    with Redis.from_url(redis_url, protocol=2, socket_timeout=60) as client:
        pool = client.connection_pool
        connection = pool.get_connection()
        try:
            yield Wire(connection)
        finally:
            pool.release(connection)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def wait(wire: Wire, id: str) -> dict[str, Any]:
    """Read as the page says: from the beginning, then on from the last entry, until ``done``."""
    block, variables = "wait", {"ID": id}
    for _ in range(12):
        (reply,) = wire.run(block, **variables)
        for _, entries in reply or []:
            for entry_id, flat in entries:
                fields = dict(zip(flat[::2], flat[1::2], strict=True))
                if fields[b"event"] == b"done":
                    assert wire.run("get", ID=id) == [fields[b"data"]]
                    return dict(json.loads(fields[b"data"]))
                block, variables = "wait-more", {"ID": id, "LAST": entry_id.decode()}
    raise AssertionError(f"no result for {id}")


@pytest.mark.usefixtures("fake_worker")
def test_one_text_is_sent_and_its_result_read_with_the_commands_of_the_page(wire: Wire) -> None:
    assert wire.run("get", ID="p1") == [None]
    assert wire.run("send", ID="p1", NOW=now())[-1][1:] == [1, 1]
    result = wait(wire, "p1")
    assert result["status"] == "done"
    assert result["id"] == "p1"
    assert result["results"]["sentiment"]["label"] == "positive"
    assert result["results"]["reply"]["text"] == "echo: 今天的实验终于成功了，太棒了！"
    assert 0 < result["timings_ms"]["queue"] < result["timings_ms"]["total"] < 120_000
    assert wire("HGET", "rq:job:p1", "status") in (b"finished", b"started")


@pytest.mark.usefixtures("fake_worker")
def test_a_wait_that_began_before_the_text_was_sent_ends_with_its_result(
    wire: Wire, connection: Redis
) -> None:
    assert wire("XREAD", "BLOCK", "10", "STREAMS", "moodq:events:p2", "0-0") is None
    wire.run("send", ID="p2", NOW=now())
    assert wait(wire, "p2")["status"] == "done"
    assert 0 < connection.ttl("moodq:result:p2") <= 3_600
    assert 0 < connection.ttl("moodq:events:p2") <= 3_600


@pytest.mark.usefixtures("fake_worker")
def test_many_texts_in_one_job_get_a_result_each_and_a_bad_one_fails_alone(wire: Wire) -> None:
    wire.run("send-many", ID="p3", NOW=now())
    for item in ("p3-a", "p3-b", "p3-c"):
        wait(wire, item)
    found = [json.loads(value) for value in wire.run("get-many", ID="p3")[0]]
    assert [result["status"] for result in found] == ["done", "done", "failed"]
    assert found[0]["metadata"] == {"row": 1}
    assert found[2]["error"]["code"] == "empty_text"
    length, workers = wire.run("look")
    assert length == 0
    assert [wire("EXISTS", worker) for worker in workers] == [1]


def test_an_item_is_cancelled_with_the_commands_of_the_page_and_never_run(
    wire: Wire, start_fake_worker: Callable[..., Any]
) -> None:
    wire.run("send-many", ID="p6", NOW=now())
    moment = now()
    assert wire.run("cancel", ID="p6-a", NOW=moment) == [b"OK"]
    wire.run("cancel-tell", ID="p6-a", NOW=moment)
    assert wait(wire, "p6-a")["error"]["code"] == "cancelled"
    start_fake_worker()
    assert wait(wire, "p6-b")["status"] == "done"
    assert wait(wire, "p6-a")["error"]["code"] == "cancelled"
    assert wire.run("cancel", ID="p6-b", NOW=now()) == [None]


@pytest.mark.usefixtures("fake_worker")
def test_a_label_is_pinned_with_the_commands_of_the_page(wire: Wire) -> None:
    wire.run("pin")
    data = '["moodq.run",null,[{"v":1,"items":[{"text":"disk 7 is full","tasks":["sentiment"]}]}],{}]'
    wire("HSET", "rq:job:p7", "data", data, "origin", "interactive", "status", "queued")
    wire("RPUSH", "rq:queue:interactive", "p7")
    result = wait(wire, "p7")
    assert (result["cached"], result["results"]["sentiment"]["label"]) == ("pinned", "negative")


@pytest.mark.usefixtures("fake_worker")
@pytest.mark.parametrize("count", [1, 2])
def test_the_needed_fields_alone_are_enough_and_items_without_id_take_the_jobs(
    wire: Wire, count: int
) -> None:
    items = ",".join(['{"text":"fine","tasks":["sentiment"]}'] * count)
    data = f'["moodq.run",null,[{{"v":1,"items":[{items}]}}],{{}}]'
    wire("HSET", "rq:job:p4", "data", data, "origin", "interactive", "status", "queued")
    wire("RPUSH", "rq:queue:interactive", "p4")
    for id in ["p4"] if count == 1 else ["p4-0", "p4-1"]:
        assert wait(wire, id)["status"] == "done"


@pytest.mark.usefixtures("fake_worker")
@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("not json", "broken_json"),
        ("\x80\x04K\x01.", "broken_json"),
        ('["moodq.run",null,[{"v":2,"items":[{"text":"x","tasks":["sentiment"]}]}],{}]', "wrong_version"),
        ('["os.system",null,["true"],{}]', "unknown_function"),
    ],
)
def test_a_job_that_cannot_be_read_fails_under_its_own_id(wire: Wire, data: str, code: str) -> None:
    wire("HSET", "rq:job:p5", "data", data, "origin", "interactive", "status", "queued")
    wire("RPUSH", "rq:queue:interactive", "p5")
    result = wait(wire, "p5")
    assert result["status"] == "failed"
    assert result["error"]["code"] == code


def test_every_code_a_result_can_have_is_in_the_table_of_the_page() -> None:
    listed = set(re.findall(r"^\| `(\w+)` \| (?:item|job) \|", DOC.read_text("utf-8"), re.MULTILINE))
    assert listed == {str(code) for code in ErrorCode} - {str(code) for code in NOT_IN_RESULTS}


def test_the_results_on_the_page_are_results() -> None:
    examples = JSON_BLOCK.findall(DOC.read_text("utf-8"))
    assert [Result.model_validate_json(example).status for example in examples] == ["done", "failed"]


def test_a_person_answers_with_the_commands_of_the_page(
    wire: Wire, start_fake_worker: Callable[..., Any], tmp_path: Path
) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text('[[routes]]\nwhen = "sentiment is negative"\nroute = "human"\n', "utf-8")
    start_fake_worker(MOODQ_TASKS_FILE=str(routes))
    with Client(url_of(wire)) as client:
        client.submit("hello", ["reply"], conversation="c").wait(30)
        assert wire.run("take-over", ID="c", NOW=now())[-1][0] == b"OK"
        silent = client.submit("hello", ["reply"], conversation="c").wait(30)
        assert silent.silenced == {"reply": "taken_over"}
        turns, *_, done = wire.run("say", ID="c", NOW=now())
        assert [json.loads(turn)["role"] for turn in turns] == ["user", "assistant", "user"]
        assert done[0] == 4
        assert client.conversations.show("c").turns[-1].by == "Ann"
        assert wire.run("release", ID="c") == [1]
        client.submit("so bad", ["sentiment"], id="angry").wait(30)
        (message,) = wire.run("next-routed")
        assert json.loads(message)["id"] == "angry"


def url_of(wire: Wire) -> str:
    return f"redis://127.0.0.1:{wire._connection.port}/0"
