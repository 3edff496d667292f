"""Requests of OpenAI's batch API in, responses out."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from moodq_config.contracts import Result
from moodq_config.errors import BadInput
from moodq_producer.bulk.openai_batch import CHAT, COMPLETION, LEAST_LOGPROB, read_request, response


def request(**fields: Any) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": "fine"}]}
    return json.dumps({"custom_id": "a", "method": "POST", "url": CHAT, "body": body} | fields)


def result(**fields: Any) -> Result:
    scores = {"positive": 0.75, "negative": 0.25}
    done = {"sentiment": {"label": "positive", "probability": 0.75, "scores": scores}}
    return Result.model_validate(
        {
            "id": "run-0", "status": "done", "worker": "w", "attempt": 1, "results": done,
            "finished_at": "2026-01-01T00:00:00+00:00",
            "model": {"id": "default", "revision": "1", "precision": "bf16"},
        } | fields
    )  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({}, "fine"),
        ({"url": COMPLETION, "body": {"prompt": "bad"}}, "bad"),
        (
            {
                "body": {
                    "messages": [
                        {"role": "system", "content": "be kind"},
                        {"role": "user", "content": "first"},
                        {"role": "assistant", "content": "yes?"},
                        {"role": "user", "content": [{"type": "text", "text": "二"}, {"type": "image_url"}]},
                    ]
                }
            },
            "二",
        ),
    ],
)
def test_the_text_is_the_last_message_of_the_user(fields: dict[str, Any], text: str) -> None:
    assert read_request(request(**fields), 1)[0] == text


@pytest.mark.parametrize(
    "line",
    [
        "not json",
        "[]",
        "[" * 100_000,
        request(custom_id=7),
        request(url="/v1/embeddings"),
        request(url=["x"]),
        request(body=None),
        request(body={"messages": "x"}),
        request(body={"messages": [{"role": "system", "content": "x"}]}),
        request(body={"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        request(url=COMPLETION, body={"prompt": [1, 2]}),
    ],
)
def test_a_request_that_asks_for_something_else_is_refused_with_its_line(line: str) -> None:
    with pytest.raises(BadInput, match="line 5"):
        read_request(line, 5)


def test_a_label_is_the_answer_and_its_probabilities_are_there_when_asked_for() -> None:
    asked = read_request(request(body={"messages": [{"role": "user", "content": "x"}], "logprobs": True}), 1)[
        1
    ]
    line = response(asked, 1, result())
    assert (line["custom_id"], line["error"], line["response"]["status_code"]) == ("a", None, 200)
    body = line["response"]["body"]
    assert (body["object"], body["model"], body["created"]) == ("chat.completion", "default", 1767225600)
    [choice] = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "positive"}
    assert choice["finish_reason"] == "stop"
    [token] = choice["logprobs"]["content"]
    assert token["logprob"] == pytest.approx(math.log(0.75))
    assert [one["token"] for one in token["top_logprobs"]] == ["positive", "negative"]
    plain = response(read_request(request(), 1)[1], 1, result())
    assert plain["response"]["body"]["choices"][0]["logprobs"] is None


def test_a_probability_of_nothing_has_a_logarithm_that_json_can_hold() -> None:
    scores = {"positive": 1.0, "negative": 0.0}
    found = result(results={"sentiment": {"label": "positive", "probability": 1.0, "scores": scores}})
    asked = {"custom_id": "a", "url": COMPLETION, "logprobs": True}
    [choice] = response(asked, 1, found)["response"]["body"]["choices"]
    assert choice["text"] == "positive"
    assert choice["logprobs"]["top_logprobs"] == [{"positive": 0.0, "negative": LEAST_LOGPROB}]


@pytest.mark.parametrize(("code", "status"), [("text_too_long", 400), ("engine_failed", 500)])
def test_a_failed_request_has_its_code_and_a_status(code: str, status: int) -> None:
    failed = result(status="failed", results={}, error={"code": code, "message": "no"})
    line = response({}, 9, failed)
    assert (line["custom_id"], line["error"]["code"]) == ("line-9", code)
    assert line["response"]["status_code"] == status
    assert line["response"]["body"]["error"]["code"] == code
