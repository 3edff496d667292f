"""A person beside the model: rules send a message to one, and one who takes over silences the reply."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from moodq_config.answers import LabelScores
from moodq_config.conversations import Routed
from moodq_config.errors import BadInput
from moodq_config.names import conversation_key, route_key, takeover_key
from moodq_config.settings import load_settings
from moodq_producer import AsyncClient, Client
from moodq_worker.embedded import free_port

Start = Callable[..., Any]
WAIT_S = 30.0
BOTH = ["sentiment", "reply"]
MAIN = "from moodq_config.cli import main; main()"
ROUTES = """
[[routes]]
when = "sentiment.negative > 0.8 and urgency is low"
route = "later"

[[routes]]
when = "sentiment.negative > 0.8"
route = "human"
reply = false

[[routes]]
when = "sentiment is positive and emotion is joy"
route = "fans"
"""


@pytest.fixture
def routed(start_fake_worker: Start, tmp_path: Path) -> Start:
    """Starts a worker with the routes above."""
    path = tmp_path / "routes.toml"
    path.write_text(ROUTES, "utf-8")
    return lambda **settings: start_fake_worker(MOODQ_TASKS_FILE=str(path), **settings)


def waiting(connection: Any, route: str) -> list[dict[str, Any]]:
    return [json.loads(entry) for entry in connection.lrange(route_key(route), 0, -1)]


def test_a_message_that_a_rule_holds_for_reaches_a_person_and_is_not_answered(
    redis_url: str, connection: Any, routed: Start
) -> None:
    port = free_port()
    worker = routed(MOODQ_METRICS_PORT=str(port))
    with Client(redis_url) as client:
        client.submit("hello", BOTH, conversation="c").wait(WAIT_S)
        ticket = client.submit("这太差了", BOTH, id="angry", conversation="c", metadata={"customer": 7})
        result = ticket.wait(WAIT_S)
        assert [event.kind for event in client.stream("angry", WAIT_S)] == ["done"]
        assert client.conversations.next_routed("later") is None
        message = client.conversations.next_routed("human", timeout=WAIT_S)
        assert client.conversations.next_routed("human", timeout=0.2) is None
    assert (result.status, result.route, result.silenced) == ("done", "human", {"reply": "route"})
    assert list(result.results) == ["sentiment"]
    assert message is not None
    assert (message.id, message.route, message.conversation) == ("angry", "human", "c")
    assert (message.text, message.lang, message.reply) == ("这太差了", "zh", False)
    assert message.metadata == {"customer": 7}
    judged = message.results["sentiment"]
    assert isinstance(judged, LabelScores)
    assert (judged.label, judged.probability) == ("negative", 0.9)
    assert [turn.text for turn in message.turns] == ["hello", "echo: hello"]
    turns = [json.loads(turn) for turn in connection.lrange(conversation_key("c"), 0, -1)]
    assert [(turn["role"], turn["text"]) for turn in turns][2:] == [("user", "这太差了")]
    page = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    assert 'moodq_routed_total{route="human"} 1.0' in page
    assert re.search(r'moodq_items_total\{code="",outcome="silenced",task="reply"\} 1', page)
    assert "太差" not in worker.log.read_text("utf-8")


def test_a_rule_may_leave_the_reply_on_and_its_followers_hear_of_the_route_before_it(
    redis_url: str, connection: Any, routed: Start
) -> None:
    routed()
    with Client(redis_url) as client:
        # It is pushed while the reply is still being written.
        ticket = client.submit("hello [[step 0.3]]", [*BOTH, "emotion"], id="glad")
        message = client.conversations.next_routed("fans", timeout=WAIT_S)
        assert client.result("glad") is None
        events = list(client.stream("glad", WAIT_S))
        result = ticket.wait(WAIT_S)
    kinds = [event.kind for event in events]
    assert kinds[:2] == ["label", "route"]
    assert set(kinds[2:-1]) == {"token"}
    assert events[1].route == result.route == "fans"
    assert result.silenced is None
    assert set(result.results) == {*BOTH, "emotion"}
    assert message is not None
    assert message.reply
    assert set(message.results) == {"sentiment", "emotion"}
    assert waiting(connection, "fans") == [], "the result must not bring it again"


def test_a_rule_about_a_task_that_the_item_does_not_name_does_not_hold(
    redis_url: str, connection: Any, routed: Start
) -> None:
    """The label that steers a reply counts; nothing is judged for a rule's sake."""
    routed()
    with Client(redis_url) as client:
        steered = client.submit("so bad", ["reply"]).wait(WAIT_S)
        alone = client.submit("so bad", ["intent"]).wait(WAIT_S)
        glad = client.submit("fine", ["sentiment"]).wait(WAIT_S)
    assert (steered.route, steered.results, steered.silenced) == ("human", {}, {"reply": "route"})
    assert alone.route is None
    assert glad.route is None
    assert len(waiting(connection, "human")) == 1


def test_texts_of_a_bulk_job_are_routed_each_and_the_list_keeps_its_newest(
    redis_url: str, connection: Any, routed: Start
) -> None:
    routed(MOODQ_MAX_ROUTED="5", MOODQ_CONVERSATION_TTL_S="60")
    with Client(redis_url) as client:
        texts = [f"{'bad' if n % 2 else 'fine'} {n}" for n in range(40)]
        tickets = list(client.submit_many(texts, BOTH, chunk=40))
        results = list(client.wait([ticket.id for ticket in tickets], WAIT_S))
    assert sum(result.route == "human" for result in results) == 20
    assert [entry["text"] for entry in waiting(connection, "human")] == [f"bad {n}" for n in range(31, 41, 2)]
    assert 0 < connection.ttl(route_key("human")) <= 60


def test_a_message_is_routed_once_through_a_takeover_of_its_job(
    redis_url: str, connection: Any, routed: Start
) -> None:
    worker = routed()
    with Client(redis_url) as client:
        ticket = client.submit("hello [[step 0.3]]", [*BOTH, "emotion"], id="glad")
        until(lambda: len(waiting(connection, "fans")) == 1)
        worker.kill()
        routed()
        result = ticket.wait(WAIT_S)
    assert (result.attempt, result.route) == (2, "fans")
    assert [entry["id"] for entry in waiting(connection, "fans")] == ["glad"]


def test_what_takes_the_place_of_a_routes_list_makes_way(
    redis_url: str, connection: Any, routed: Start
) -> None:
    connection.set(route_key("human"), "x")
    routed()
    with Client(redis_url) as client:
        assert client.submit("so bad", BOTH).wait(WAIT_S).route == "human"
    assert len(waiting(connection, "human")) == 1


def test_an_edit_of_the_rules_is_in_force_within_a_moment(
    redis_url: str, connection: Any, routed: Start, tmp_path: Path
) -> None:
    worker = routed()
    (tmp_path / "routes.toml").write_text(ROUTES.replace('"human"', '"desk"'), "utf-8")
    until(lambda: "tasks changed" in worker.log.read_text("utf-8"))  # it tells of the change
    with Client(redis_url) as client:
        assert client.submit("so bad", BOTH).wait(WAIT_S).route == "desk"


@pytest.mark.usefixtures("fake_worker")
def test_while_a_person_answers_the_model_does_not_and_knows_the_answers_afterwards(
    redis_url: str, connection: Any
) -> None:
    with Client(redis_url) as client:
        people = client.conversations
        client.submit("hello", BOTH, conversation="c").wait(WAIT_S)
        people.take_over("c", by="Ann")
        silent = client.submit("is anybody there", [*BOTH, "translate"], conversation="c").wait(WAIT_S)
        other = client.submit("hello", ["reply"], conversation="d").wait(WAIT_S)
        people.say("c", " I am Ann. ", by="Ann")
        shown = people.show("c")
        assert people.release("c")
        assert not people.release("c")
        again = client.submit("thanks", ["reply"], conversation="c").wait(WAIT_S)
    assert silent.silenced == {"reply": "taken_over"}
    assert set(silent.results) == {"sentiment", "translate"}
    assert other.silenced is None
    assert shown.taken_over is not None
    assert shown.taken_over.by == "Ann"
    assert [(turn.role, turn.text, turn.by) for turn in shown.turns] == [
        ("user", "hello", None),
        ("assistant", "echo: hello", None),
        ("user", "is anybody there", None),
        ("person", "I am Ann.", "Ann"),
    ]
    reply: Any = again.results["reply"]
    assert reply.text == "echo: thanks (after: hello | echo: hello | is anybody there | I am Ann.)"


@pytest.mark.usefixtures("fake_worker")
def test_a_takeover_stops_a_reply_that_is_being_written_and_those_that_wait(redis_url: str) -> None:
    with Client(redis_url) as client:
        busy = client.submit("[[words 100]] [[step 0.2]]", BOTH, id="busy", conversation="c")
        events = client.stream("busy", WAIT_S)
        assert next(event for event in events if event.kind == "token")
        client.conversations.take_over("c", by="安娜")
        began = time.monotonic()
        stopped = busy.wait(WAIT_S)
        assert time.monotonic() - began < 10
        after = client.submit("hello", ["reply"], conversation="d").wait(WAIT_S)
    assert stopped.silenced == {"reply": "taken_over"}
    assert list(stopped.results) == ["sentiment"]
    assert after.silenced is None


def test_a_takeover_while_labels_are_under_way_silences_one_and_not_its_like(
    redis_url: str, start_fake_worker: Start
) -> None:
    """Two equal texts share a label; one of them belongs to the conversation that is taken over."""
    start_fake_worker()
    with Client(redis_url) as client:
        first = client.submit("[[sleep 2]] hello", BOTH, conversation="c")
        same = client.submit("[[sleep 2]] hello", BOTH)
        time.sleep(0.7)
        client.conversations.take_over("c", by="Ann")
        assert first.wait(WAIT_S).silenced == {"reply": "taken_over"}
        assert "reply" in same.wait(WAIT_S).results


def test_a_person_who_answers_already_is_not_sent_the_message_by_a_rule(
    redis_url: str, connection: Any, routed: Start
) -> None:
    routed()
    with Client(redis_url) as client:
        client.conversations.take_over("c", by="Ann")
        result = client.submit("so bad", BOTH, conversation="c").wait(WAIT_S)
        judged = client.submit("so bad", ["sentiment"], conversation="c").wait(WAIT_S)
    assert (result.route, result.silenced) == (None, {"reply": "taken_over"})
    assert judged.route is None
    assert waiting(connection, "human") == []


def test_a_takeover_ends_by_itself_some_time_after_the_last_word(redis_url: str, connection: Any) -> None:
    with Client(load_settings(redis_url=redis_url, takeover_ttl_s=50)) as client:
        people = client.conversations
        people.take_over("c", by="Ann")
        assert 0 < connection.ttl(takeover_key("c")) <= 50
        connection.expire(takeover_key("c"), 2)
        people.say("c", "hello")
        assert connection.ttl(takeover_key("c")) > 10
        people.take_over("c", by="Bob", seconds=500)
        people.say("c", "hello")
        assert connection.ttl(takeover_key("c")) > 400
        people.take_over("d", by="Ann", seconds=1)
        until(lambda: people.show("d").taken_over is None)
        assert not connection.exists(takeover_key("none"))
        people.say("none", "nobody has taken over here")
        assert people.show("none").taken_over is None


def test_the_async_client_does_the_same(redis_url: str, connection: Any) -> None:
    async def talk() -> None:
        async with AsyncClient(redis_url) as client:
            people = client.conversations
            assert (await people.show("c")).turns == ()
            assert (await people.take_over("c", by="Ann")).by == "Ann"
            assert (await people.say("c", "你好", by="Ann")).text == "你好"
            shown = await people.show("c")
            assert [turn.text for turn in shown.turns] == ["你好"]
            assert shown.taken_over is not None
            assert await people.release("c")
            assert await people.next_routed("human") is None
            message = Routed(
                id="a", route="human", text="x", lang="en", results={}, reply=True, at=shown.taken_over.at
            )
            connection.rpush(route_key("human"), message.model_dump_json())
            assert await people.next_routed("human") == message

    asyncio.run(talk())


@pytest.mark.parametrize("id", ["", "a b", "x" * 129, "a:b", "é"])
def test_what_is_no_id_of_a_conversation_is_refused(redis_url: str, id: str) -> None:
    with Client(redis_url) as client:
        people = client.conversations
        for refused in (people.show, people.release, lambda id: people.take_over(id, by="Ann")):
            with pytest.raises(BadInput, match="1 to 128"):
                refused(id)
        with pytest.raises(BadInput, match="1 to 128"):
            people.say(id, "hello")


def test_what_is_no_name_time_text_or_route_is_refused(redis_url: str) -> None:
    with Client(redis_url) as client:
        people = client.conversations
        for by in ("", " ", "a\nb", "x" * 129):
            with pytest.raises(BadInput, match="printable"):
                people.take_over("c", by=by)
        with pytest.raises(BadInput, match="1 second"):
            people.take_over("c", by="Ann", seconds=0)
        for text in ("  ", "x" * 8_001, "\ud800"):
            with pytest.raises(BadInput, match="text"):
                people.say("c", text)
        for route in ("", "Human", "a:b"):
            with pytest.raises(BadInput, match="route"):
                people.next_routed(route)
    with Client(load_settings(redis_url=redis_url, id_prefix="shop-")) as client:
        assert client.conversations.show("shop-c").turns == ()
        with pytest.raises(BadInput, match="shop-"):
            client.conversations.show("bank-c")


def moodq(redis_url: str, home: Path, *args: str) -> tuple[int, str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "conversation", *args],
        capture_output=True,
        cwd=home,
        env={**clean, "MOODQ_REDIS_URL": redis_url, "PYTHONUTF8": "1"},
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_the_command_shows_takes_over_says_and_releases(
    redis_url: str, connection: Any, routed: Start, tmp_path: Path
) -> None:
    routed()
    with Client(redis_url) as client:
        client.submit("hello\x1b[31m", BOTH, conversation="c").wait(WAIT_S)
        client.submit("so bad", BOTH, id="angry").wait(WAIT_S)
        code, output, errors = moodq(redis_url, tmp_path, "takeover", "c", "--by", "Ann")
        assert (code, errors) == (0, "")
        assert "moodq conversation release c" in output
        assert client.submit("hello", ["reply"], conversation="c").wait(WAIT_S).silenced
    assert moodq(redis_url, tmp_path, "say", "c", "我来了", "--by", "Ann")[0] == 0
    code, output, _ = moodq(redis_url, tmp_path, "show", "c")
    assert code == 0
    assert "customer: hello\\x1b[31m" in output
    assert "Ann: 我来了" in output
    assert "taken over by Ann" in output
    code, output, _ = moodq(redis_url, tmp_path, "show", "c", "--json")
    assert json.loads(output)["turns"][-1]["by"] == "Ann"
    assert moodq(redis_url, tmp_path, "release", "c")[:2] == (0, "released\n")
    assert moodq(redis_url, tmp_path, "release", "c")[:2] == (0, "was not taken over\n")
    code, output, _ = moodq(redis_url, tmp_path, "next", "human")
    assert (code, json.loads(output)["id"]) == (0, "angry")
    assert moodq(redis_url, tmp_path, "next", "human")[0] == 3
    assert moodq(redis_url, tmp_path, "show", "nothing")[0] == 3
    assert moodq(redis_url, tmp_path, "say", "a b", "x")[0] == 3


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
