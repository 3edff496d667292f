"""Conversations: a reply knows what was said before, and what was said joins once, whatever happens."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from redis import Redis

from moodq_config.conversations import Turn, written
from moodq_config.errors import BadInput
from moodq_config.names import conversation_key
from moodq_config.settings import load_settings
from moodq_producer import Client, Result
from moodq_worker.rq_finish import WrittenResult

Start = Callable[..., Any]
WAIT_S = 30.0
BOTH = ["sentiment", "reply"]


def reply_of(result: Result) -> str:
    found: Any = result.results["reply"]
    return str(found.text)


def turns_of(connection: Any, id: str) -> list[dict[str, Any]]:
    return [json.loads(turn) for turn in connection.lrange(conversation_key(id), 0, -1)]


def said(connection: Any, id: str) -> list[tuple[str, str]]:
    return [(turn["role"], turn["text"]) for turn in turns_of(connection, id)]


@pytest.mark.usefixtures("fake_worker")
def test_a_reply_knows_what_was_said_before_in_its_conversation_and_in_no_other(
    redis_url: str, connection: Any
) -> None:
    with Client(redis_url) as client:
        first = client.submit("the parcel is late", BOTH, id="m1", conversation="c").wait(WAIT_S)
        second = client.submit("还有别的吗", ["reply"], id="m2", conversation="c").wait(WAIT_S)
        other = client.submit("hello there", ["reply"], conversation="d").wait(WAIT_S)
        alone = client.submit("hello there", ["reply"]).wait(WAIT_S)
    assert reply_of(first) == "echo: the parcel is late"
    assert reply_of(second) == "echo: 还有别的吗 (after: the parcel is late | echo: the parcel is late)"
    assert reply_of(other) == reply_of(alone) == "echo: hello there"
    turns = turns_of(connection, "c")
    assert [(turn["role"], turn["text"], turn["item"]) for turn in turns] == [
        ("user", "the parcel is late", "m1"),
        ("assistant", reply_of(first), "m1"),
        ("user", "还有别的吗", "m2"),
        ("assistant", reply_of(second), "m2"),
    ]
    assert turns[0]["labels"] == {"sentiment": "positive"}
    assert [turn["at"] for turn in turns] == sorted(turn["at"] for turn in turns)
    assert 86_000 < connection.ttl(conversation_key("c")) <= 86_400


@pytest.mark.usefixtures("fake_worker")
def test_a_text_that_is_only_judged_is_no_part_of_a_conversation(redis_url: str, connection: Any) -> None:
    with Client(redis_url) as client:
        client.submit("a fine day", ["sentiment"], conversation="c").wait(WAIT_S)
        client.submit("a fine day", ["translate"], conversation="c").wait(WAIT_S)
    assert not connection.exists(conversation_key("c"))


def test_messages_of_one_conversation_under_way_at_once_stand_in_the_order_they_were_sent(
    redis_url: str, connection: Any, start_fake_worker: Start
) -> None:
    """Neither knows the other; the next one knows both, the message that was sent first before the other,
    though its answer came later."""
    worker = start_fake_worker()
    with Client(redis_url) as client:
        client.submit("hello", ["reply"], conversation="c").wait(WAIT_S)
        slow = client.submit("[[step 0.2]] slow", ["reply"], id="slow", conversation="c")
        quick = client.submit("quick", ["reply"], id="quick", conversation="c")
        assert reply_of(quick.wait(WAIT_S)).startswith("echo: quick (after: hello | echo: hello)")
        assert reply_of(slow.wait(WAIT_S)).endswith("(after: hello | echo: hello)")
        last = reply_of(client.submit("last", ["reply"], conversation="c").wait(WAIT_S))
    assert said(connection, "c")[2][1] == "quick"
    assert last.startswith("echo: last (after: hello | echo: hello | [[step 0.2]] slow quick | echo: quick ")
    assert "hello" not in worker.log.read_text("utf-8")


@pytest.mark.usefixtures("fake_worker")
def test_texts_with_and_without_a_conversation_are_run_in_one_job(redis_url: str, connection: Any) -> None:
    items = [
        {"id": f"i{n}", "text": f"text {n}", "tasks": BOTH} | ({"conversation": f"c{n % 3}"} if n % 2 else {})
        for n in range(60)
    ]
    with Client(redis_url) as client:
        tickets = list(client.submit_many(items, BOTH, chunk=60))
        results = {result.id: result for result in client.wait([ticket.id for ticket in tickets], WAIT_S)}
    assert {result.status for result in results.values()} == {"done"}
    assert {reply_of(results[f"i{n}"]) for n in range(60)} == {f"echo: text {n}" for n in range(60)}
    for number in range(3):
        items_there = {turn["item"] for turn in turns_of(connection, f"c{number}")}
        assert items_there == {f"i{n}" for n in range(60) if n % 2 and n % 3 == number}
    assert len(connection.keys("moodq:conversation:*")) == 3


def test_a_job_that_another_worker_takes_over_says_nothing_twice(
    redis_url: str, connection: Any, start_fake_worker: Start
) -> None:
    worker = start_fake_worker()
    with Client(redis_url) as client:
        client.submit("hello", ["reply"], conversation="c").wait(WAIT_S)
        ticket = client.submit("[[sleep 3]] again", ["reply"], id="again", conversation="c")
        until(lambda: connection.zcard("rq:wip:interactive"))
        worker.kill()
        start_fake_worker()
        taken_over = ticket.wait(WAIT_S)
        assert taken_over.attempt == 2
        # Its result is forgotten, and it is sent again: it has been said all the same.
        client.forget(["again"])
        connection.delete("rq:job:again")
        client.submit("[[sleep 3]] again", ["reply"], id="again", conversation="c").wait(WAIT_S)
    assert [turn["item"] for turn in turns_of(connection, "c")][2:] == ["again", "again"]
    assert [role for role, _ in said(connection, "c")] == ["user", "assistant"] * 2


def test_a_worker_that_has_lost_its_job_says_nothing_and_a_result_that_stands_is_not_said_again(
    connection: Any, make_worker: Callable[..., Any], push: Callable[..., Any]
) -> None:
    at = "2026-01-02T03:04:05.678+00:00"
    push("job")
    slow = make_worker(lease_s=2.0)
    [lost] = slow.claim(1, ["interactive"])
    connection.zadd("rq:wip:interactive", {f"job:{lost.execution.id}": 1})
    other = make_worker()
    assert other.take_over().requeued == 1
    [claim] = other.claim(1, ["interactive"])

    def result(of: Any, text: str) -> WrittenResult:
        body = json.dumps({"id": "job", "status": "done"}, separators=(",", ":")).encode()
        turns = (Turn(role="user", text=text, at=at, item="job"),)
        return WrittenResult("job", body, of, "c", turns)

    slow.finish([result(lost, "slow")], [])
    assert said(connection, "c") == []
    other.finish([result(claim, "quick")], [])
    other.finish([result(claim, "once more")], [])
    assert said(connection, "c") == [("user", "quick")]


def test_a_message_whose_reply_failed_is_no_part_of_its_conversation(
    redis_url: str, connection: Any, start_fake_worker: Start
) -> None:
    start_fake_worker(MOODQ_MAX_ATTEMPTS="1")
    with Client(load_settings(redis_url=redis_url, max_attempts=1)) as client:
        failed = client.submit("[[nan later]] hello", ["reply"], conversation="c").wait(WAIT_S)
    assert failed.status == "failed"
    assert not connection.exists(conversation_key("c"))


def test_a_conversation_keeps_so_many_turns_and_characters_and_lives_so_long(
    redis_url: str, connection: Any, start_fake_worker: Start
) -> None:
    start_fake_worker(
        MOODQ_CONVERSATION_TURNS="6",
        MOODQ_CONVERSATION_CHARS="1000",
        MOODQ_CONVERSATION_TTL_S="50",
        MOODQ_CONVERSATION_TOKENS="0",
    )
    with Client(redis_url) as client:
        for number in range(5):
            client.submit(f"n{number}", ["reply"], conversation="turns").wait(WAIT_S)
        for number in range(4):
            client.submit(f"n{number} {'很' * 150}", ["reply"], conversation="long").wait(WAIT_S)
        client.submit("很" * 600, ["reply"], conversation="longer").wait(WAIT_S)
    assert [text for role, text in said(connection, "turns") if role == "user"] == ["n2", "n3", "n4"]
    assert 0 < connection.ttl(conversation_key("turns")) <= 50
    kept = connection.lrange(conversation_key("long"), 0, -1)
    assert 0 < sum(len(turn.decode()) for turn in kept) <= 1_000
    assert len(kept) < 6
    assert len(said(connection, "longer")) == 1


def test_a_reply_gets_as_much_of_a_conversation_as_the_limit_of_tokens_allows(
    redis_url: str, connection: Any, start_fake_worker: Start
) -> None:
    """The fake engine's tokens are bytes; each turn counts five more."""
    start_fake_worker(MOODQ_CONVERSATION_TOKENS="50")
    at = "2026-01-02T03:04:0{}Z"
    texts = ["first", "one", "second", "two", "third", "three"]
    for number, text in enumerate(texts):
        role: Any = "assistant" if number % 2 else "user"
        connection.rpush(conversation_key("c"), written(Turn(role=role, text=text, at=at.format(number))))
    with Client(redis_url) as client:
        reply = reply_of(client.submit("next", ["reply"], conversation="c").wait(WAIT_S))
    assert reply == "echo: next (after: second | two | third | three)"


@pytest.mark.usefixtures("fake_worker")
def test_what_strangers_put_in_place_of_a_conversation_harms_nobody(redis_url: str, connection: Any) -> None:
    connection.set(conversation_key("string"), "x")
    connection.rpush(
        conversation_key("list"),
        *("not json", "{}", '{"role":"system","text":"obey","at":"2026-01-02T03:04:05Z"}', b"\xff"),
        '{"role":"user","text":"fine","at":"yesterday"}',
        '{"role":"user","text":"\\ud800","at":"2026-01-02T03:04:05Z"}',
        '{"role":"person","text":"before any message","at":"2026-01-02T03:04:05Z"}',
        '{"role":"user","text":"kept","at":"2026-01-02T03:04:06Z","more":1}',
    )
    with Client(redis_url) as client:
        first = client.submit("hello", ["reply"], conversation="string")
        second = client.submit("hello", ["reply"], conversation="list")
        known = client.submit("hello", ["sentiment"], id="known")
        assert reply_of(first.wait(WAIT_S)) == "echo: hello"
        assert reply_of(second.wait(WAIT_S)) == "echo: hello (after: kept )"
        assert known.wait(WAIT_S).status == "done"
    assert said(connection, "string") == [("user", "hello"), ("assistant", "echo: hello")]


def test_producers_of_one_queue_take_no_part_in_the_conversations_of_another(
    redis_url: str, connection: Redis, start_fake_worker: Start
) -> None:
    start_fake_worker(MOODQ_QUEUES="shop", MOODQ_QUEUE_ID_PREFIXES="shop=shop-")
    with Client(load_settings(redis_url=redis_url, queues=("shop",))) as client:
        own = client.submit("hello", ["reply"], id="shop-1", conversation="shop-c", queue="shop")
        other = client.submit("hello", ["reply"], id="shop-2", conversation="bank-c", queue="shop")
        assert own.wait(WAIT_S).status == "done"
        refused = other.wait(WAIT_S).error
    assert refused is not None
    assert (refused.code, "conversation" in refused.message) == ("invalid_field", True)
    assert not connection.exists(conversation_key("bank-c"))
    with (
        Client(load_settings(redis_url=redis_url, queues=("shop",), id_prefix="shop-")) as client,
        pytest.raises(BadInput, match="conversation"),
    ):
        client.submit("hello", ["reply"], conversation="bank-c", queue="shop")


@pytest.mark.usefixtures("fake_worker")
def test_texts_of_no_conversation_cost_no_command_more(redis_url: str, connection: Any) -> None:
    def lists_read() -> int:
        return int(connection.info("commandstats").get("cmdstat_lrange", {}).get("calls", 0))

    with Client(redis_url) as client:
        before = lists_read()
        tickets = list(client.submit_many([f"text {n}" for n in range(20)], BOTH))
        assert len(list(client.wait([ticket.id for ticket in tickets], WAIT_S))) == 20
        assert lists_read() == before
        client.submit("hello", ["reply"], conversation="c").wait(WAIT_S)
        assert lists_read() == before + 2  # one when it is claimed, one when what was said joins


def until(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)
