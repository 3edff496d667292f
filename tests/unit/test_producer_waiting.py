"""What a wait remembers, without a server."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from moodq_config.contracts import Result, ResultStatus
from moodq_config.errors import BadInput, ErrorCode, Unavailable
from moodq_producer.backoff import FIRST_S, LONGEST_S
from moodq_producer.following import Following
from moodq_producer.waiting import WINDOW, Patience, Waiting, parse_result, wait_timeout


def stored(id: str) -> bytes:
    result = Result(id=id, status=ResultStatus.DONE, worker="w", attempt=1, finished_at="now")
    return result.model_dump_json(exclude_none=True).encode()


def entry(number: int, event: str, data: bytes = b"{}") -> tuple[bytes, dict[bytes, bytes]]:
    return f"{number}-0".encode(), {b"event": event.encode(), b"data": data}


def fetched(waiting: Waiting, values: Sequence[bytes | str | None]) -> list[Result]:
    waiting.keys()
    return waiting.fetched(values)


def test_a_result_that_is_there_is_taken_and_the_others_become_streams() -> None:
    waiting = Waiting()
    waiting.add(["a", "b"])
    assert waiting.keys() == ["moodq:result:a", "moodq:result:b"]
    assert [result.id for result in fetched(waiting, [stored("a"), None])] == ["a"]
    assert waiting.streams == {"moodq:events:b": "0-0"}
    assert waiting.pending == ["b"]


def test_labels_and_tokens_are_passed_over_until_the_item_is_done() -> None:
    waiting = Waiting()
    waiting.add(["a"])
    fetched(waiting, [None])
    assert waiting.arrived([[b"moodq:events:a", [entry(1, "label"), entry(2, "token")]]]) == []
    assert waiting.streams == {"moodq:events:a": "2-0"}
    done = waiting.arrived([[b"moodq:events:a", [entry(3, "token"), entry(4, "done", stored("a"))]]])
    assert [result.id for result in done] == ["a"]
    assert waiting.pending == []


def test_an_id_asked_for_twice_is_one_stream() -> None:
    waiting = Waiting()
    waiting.add(["a", "a"])
    fetched(waiting, [None, None])
    assert waiting.pending == ["a"]


def test_the_window_bounds_the_streams_of_one_read() -> None:
    waiting = Waiting()
    waiting.add(str(number) for number in range(WINDOW - 1))
    fetched(waiting, [None] * (WINDOW - 1))
    assert waiting.room == 1


def test_a_result_of_another_contract_version_is_told_apart_from_a_failed_one() -> None:
    with pytest.raises(BadInput, match="contract version 1") as caught:
        parse_result(stored("a").replace(b'"v":1', b'"v":2'), "a")
    assert caught.value.code == ErrorCode.WRONG_VERSION


def test_a_stored_result_of_another_id_is_refused() -> None:
    with pytest.raises(BadInput):
        parse_result(stored("a"), "b")


@pytest.mark.parametrize("kind", ["label", "token"])
@pytest.mark.parametrize(
    "data", [b"", b"[", b"[]", b"1", b"null", b"{}", b'{"a": 1}', b"\xff", b"[" * 99_999]
)
def test_an_event_that_is_none_of_ours_ends_nobodys_stream(kind: str, data: bytes) -> None:
    following = Following("a")
    found = following.arrived([(b"moodq:events:a", [(b"1-0", {b"event": kind.encode(), b"data": data})])])
    assert [event for event in found if event.labels or event.text] == []
    assert not following.ended


#: Seconds for which a Redis that is away is waited for.
AWAY_S = 30.0


def test_blocking_never_asks_redis_to_block_for_ever() -> None:
    assert Patience(AWAY_S, timeout=0).block_ms(5.0) == 1
    assert Patience(AWAY_S).block_ms(5.0) == 5_000
    assert Patience(AWAY_S, timeout=1_000, idle_timeout=0).block_ms(5.0) == 1


def test_without_a_timeout_a_wait_has_no_end() -> None:
    assert Patience(AWAY_S).left() is None


def test_a_redis_that_stays_away_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 100.0
    monkeypatch.setattr("moodq_producer.waiting.time.monotonic", lambda: clock)
    patience = Patience(AWAY_S)
    patience.away(Unavailable("gone"))
    clock += AWAY_S - 1
    patience.away(Unavailable("gone"))
    patience.answered(results=False)
    clock += 2
    patience.away(Unavailable("gone"))
    clock += AWAY_S
    with pytest.raises(Unavailable, match="gone"):
        patience.away(Unavailable("gone"))


def test_pauses_while_redis_is_away_grow_differ_and_do_not_outlast_the_patience(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 100.0
    monkeypatch.setattr("moodq_producer.waiting.time.monotonic", lambda: clock)
    patience = Patience(away_s=4.0)
    pauses = []
    while clock < 104.0:
        pauses.append(patience.away(Unavailable("gone")))
        clock += pauses[-1]
    with pytest.raises(Unavailable):
        patience.away(Unavailable("gone"))
    assert sum(pauses) == pytest.approx(4.0)
    assert FIRST_S / 2 <= pauses[0] <= FIRST_S
    assert LONGEST_S / 2 <= pauses[5] <= LONGEST_S
    assert len({Patience(away_s=4.0).away(Unavailable("gone")) for _ in range(20)}) > 10
    with pytest.raises(Unavailable):
        Patience(away_s=0.0).away(Unavailable("gone"))


@pytest.mark.parametrize(
    ("pending", "workers", "said"),
    [
        (["a"], 0, "no result for a within 2.0 s; no worker is alive: start one with `moodq worker`"),
        (["a", "b"], 1, "no result for 2 items within 2.0 s; 1 worker is alive"),
        (["a"], 3, "3 workers are alive"),
    ],
)
def test_a_timeout_says_who_is_working_and_what_to_do(pending: list[str], workers: int, said: str) -> None:
    error = wait_timeout(pending, 2.0, workers)
    assert said in error.message
    assert error.code == ErrorCode.WAIT_TIMEOUT


def test_what_is_added_or_dropped_while_values_are_fetched_is_neither_lost_nor_mixed_up() -> None:
    waiting = Waiting()
    waiting.add(["a", "b", "c"])
    waiting.keys()
    waiting.add(["d"])
    waiting.drop("b")
    found = waiting.fetched([stored("a"), stored("b"), None])
    assert [result.id for result in found] == ["a"]
    assert waiting.fresh == ["d"]
    assert waiting.pending == ["d", "c"]
    waiting.drop("c")
    assert waiting.pending == ["d"]
