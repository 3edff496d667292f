"""A column of texts to columns of answers, in the rows' own order and under their own index."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from redis import Redis

from moodq_config.errors import BadInput, ConfigError, Unavailable, WaitTimeout
from moodq_config.settings import load_settings
from moodq_producer import Client

pd = pytest.importorskip("pandas", reason="install it with: pip install 'moodq[pandas]'")

from moodq_producer.pandas import tag  # noqa: E402 - it needs pandas


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with Client(redis_url) as client:
        yield client


@pytest.mark.usefixtures("fake_worker")
def test_a_series_gets_its_labels_under_its_own_index(client: Client, connection: Redis) -> None:
    texts = pd.Series(
        [f"{'terrible' if number % 3 else '很好'} {number}" for number in range(2_500)],
        index=[f"row-{number % 2_000}" for number in range(2_500)],  # some of them twice
    )
    found = tag(texts, client=client)
    assert list(found.columns) == ["sentiment", "sentiment_probability", "error"]
    assert found.index.equals(texts.index)
    assert list(found["sentiment"]) == ["negative" if number % 3 else "positive" for number in range(2_500)]
    assert found["sentiment"].dtype == "category"
    assert (found["sentiment_probability"] == 0.9).all()
    assert found["error"].isna().all()
    assert pd.concat([texts, found], axis=1).shape == (2_500, 4)
    assert connection.keys("moodq:result:*") == [], "what is in the frame need not be kept"


@pytest.mark.usefixtures("fake_worker")
def test_a_column_of_a_frame_is_tagged_by_tasks_of_several_kinds(redis_url: str) -> None:
    frame = pd.DataFrame({"text": ["so bad", "很好"], "n": [1, 2]}, index=[7, 3])
    tasks = ["sentiment", "needs_attention", "reply", "keywords"]
    found = tag(frame, tasks, column="text", client=redis_url, scores=True)
    assert list(found.index) == [7, 3]
    assert found.loc[7, "sentiment"] == "negative"
    assert found.loc[3, "sentiment_score_positive"] == pytest.approx(0.9)
    assert list(found["needs_attention"]) == pytest.approx([0.9, 0.1])
    assert found.loc[3, "reply"] == "echo: 很好"
    assert set(found.loc[7, "keywords"]) == {"keywords"}


def test_rows_that_fail_are_told_and_the_others_are_done(start_fake_worker: Any, client: Client) -> None:
    start_fake_worker(MOODQ_MAX_ATTEMPTS="1")
    texts = pd.Series(["fine", None, float("nan"), " ", 5, "[[raise]]", ["a"], "bad"])
    found = tag(texts, client=client)
    assert list(found["error"].fillna("")) == [
        "", "empty_text", "empty_text", "empty_text", "invalid_field", "engine_failed", "invalid_field", "",
    ]  # fmt: skip
    assert list(found["sentiment"].isna()) == [False] + [True] * 6 + [False]
    assert list(found["sentiment_probability"].isna()) == [False] + [True] * 6 + [False]


@pytest.mark.usefixtures("fake_worker")
def test_equal_texts_are_sent_once_and_progress_is_told(client: Client, connection: Redis) -> None:
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int) -> None:
        told.append((done, total))

    found = tag(pd.Series(["好", "bad"] * 150), client=client, progress=tell)
    assert list(found["sentiment"]) == ["positive", "negative"] * 150
    assert told == [(100, 300), (200, 300), (300, 300)]
    assert [connection.hget(key, "description") for key in connection.keys("rq:job:*")] == [b"moodq: 2 items"]
    assert tag(pd.Series(["好"]), client=client, progress=True).shape == (1, 3)


def test_nothing_gives_an_empty_frame_of_the_same_columns(client: Client) -> None:
    found = tag(pd.Series([], dtype="object"), ["sentiment", "reply"], client=client)
    assert list(found.columns) == ["sentiment", "reply", "error"]
    assert len(found) == 0


def test_what_cannot_be_is_refused_before_anything_is_sent(client: Client, connection: Redis) -> None:
    frame = pd.DataFrame({"a": ["x"], "b": ["y"]})
    with pytest.raises(ConfigError, match="'a', 'b'"):
        tag(frame, client=client)
    with pytest.raises(ConfigError, match="no column 'c'; it has 'a', 'b'"):
        tag(frame, column="c", client=client)
    with pytest.raises(ConfigError, match="2 columns of the name 'a'"):
        tag(pd.concat([frame, frame], axis=1), column="a", client=client)
    with pytest.raises(BadInput, match="'labels' is missing"):
        tag(frame["a"], "topic", client=client)
    with pytest.raises(ConfigError, match="MOODQ_QUEUES"):
        tag(frame["a"], client=client, queue="slow")
    with pytest.raises(Unavailable):
        tag(frame["a"], client=load_settings(redis_url="redis://127.0.0.1:1/0"))
    assert connection.dbsize() == 0


def test_without_a_worker_it_ends(client: Client) -> None:
    with pytest.raises(WaitTimeout, match="no worker is alive"):
        tag(pd.Series(["x"]), client=client, idle_timeout=0.3)
