"""The hand-off's parts by themselves: where texts may go, the breaker, and what log-probabilities mean."""

from __future__ import annotations

import math

import pytest

from moodq_config.cli_config import shown_value
from moodq_config.errors import ConfigError
from moodq_config.settings import load_settings
from moodq_worker.remote.breaker import Breaker
from moodq_worker.remote.question import probabilities

WORDS = {"positive": "正面", "negative": "负面"}


@pytest.mark.parametrize("url", ["http://llm.example.com/v1", "http://10.0.0.7:8000/v1", "ftp://h/v1", "h:1"])
def test_texts_go_in_the_clear_to_this_machine_only(url: str) -> None:
    with pytest.raises(ConfigError, match=r"MOODQ_REMOTE_URL: .*must be"):
        load_settings(remote_url=url, remote_model="m")


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000/v1", "http://[::1]:1/v1", "http://localhost/v1/"])
def test_this_machine_needs_no_tls(url: str) -> None:
    assert load_settings(remote_url=url, remote_model="m").remote_url == url.rstrip("/")


def test_another_machine_without_tls_must_be_allowed() -> None:
    url = "http://llm.internal/v1"
    found = load_settings(remote_url=url, remote_model="m", remote_allow_http=True)
    assert found.remote_url == url


def test_an_endpoint_needs_a_model() -> None:
    with pytest.raises(ConfigError, match="MOODQ_REMOTE_URL needs MOODQ_REMOTE_MODEL"):
        load_settings(remote_url="https://h/v1")


def test_a_key_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODQ_REMOTE_API_KEY", "sk-secret")
    settings = load_settings()
    assert "sk-secret" not in repr(settings) + shown_value(settings, "remote_api_key")
    with pytest.raises(ConfigError) as caught:
        load_settings(remote_url="https://user:sk-secret@h/v1", remote_model="m")
    assert "sk-secret" not in caught.value.message
    assert "MOODQ_REMOTE_API_KEY" in caught.value.message


def test_the_breaker_lets_one_request_try_after_the_pause_and_opens_again_if_it_fails() -> None:
    now = 0.0
    changes: list[bool] = []
    breaker = Breaker(failures=2, pause_s=10.0, changed=changes.append, clock=lambda: now)
    for well in (False, True, False, False):
        assert breaker.allows()
        breaker.went(well)
    assert not breaker.allows()
    now = 10.0
    assert breaker.allows()
    assert not breaker.allows(), "two tried at once"
    breaker.went(None)  # it was not sent: nothing is known
    assert breaker.allows()
    breaker.went(False)
    assert not breaker.allows()
    now = 20.0
    assert breaker.allows()
    breaker.went(True)
    assert breaker.allows()
    assert changes == [True, False]


def test_a_labels_probability_is_that_of_the_tokens_it_begins_with() -> None:
    found = probabilities(
        WORDS, {"正": math.log(0.5), "正面": math.log(0.1), " 负": math.log(0.2), "我": -1.0}
    )
    assert found == pytest.approx({"positive": 0.75, "negative": 0.25})


@pytest.mark.parametrize("first_token", [{}, {"我": -0.1}, {"": 0.0}])
def test_no_probability_is_made_up(first_token: dict[str, float]) -> None:
    assert probabilities(WORDS, first_token) is None


def test_labels_that_begin_alike_cannot_be_told_apart_by_the_first_token() -> None:
    assert probabilities({"a": "very good", "b": "very bad"}, {"very": -0.1}) is None
