"""Files of OpenAI's batch API, which vLLM's ``run_batch`` reads and writes too: a request in, a response out.

The text is the last message of the user, or the prompt. The answer is the label or the text, of other tasks
their JSON; a request for ``logprobs`` gets those of all labels. What moodq does not count or cannot heed
(usage, system messages, sampling) is left out.
"""

from __future__ import annotations

import json
import math
from datetime import datetime
from typing import Any

from moodq_config.answers import Answer, Extracted, GeneratedText, LabelScores
from moodq_config.contracts import Result
from moodq_config.errors import NEVER_RETRIED, BadInput

CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
#: What stands for the logarithm of zero.
LEAST_LOGPROB = -9999.0


def read_request(line: str, number: int) -> tuple[str, dict[str, Any]]:
    """The text of one line, and what its response needs. Raises ``BadInput``."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"line {number} is not JSON ({type(error).__name__})") from None
    if not isinstance(request, dict) or not isinstance(request.get("custom_id"), str):
        raise BadInput(f'line {number} is no request; send {{"custom_id": …, "url": …, "body": …}}')
    url, body = request.get("url"), request.get("body")
    if url not in (CHAT, COMPLETION) or not isinstance(body, dict):
        raise BadInput(f"line {number} asks for {str(url)[:80]!r}; answered are {CHAT} and {COMPLETION}")
    text = _last_of_user(body.get("messages")) if url == CHAT else body.get("prompt")
    if not isinstance(text, str):
        what = "no message of the user that is a text" if url == CHAT else "no prompt that is a text"
        raise BadInput(f"line {number} has {what}")
    asked = {"custom_id": request["custom_id"], "url": url, "logprobs": bool(body.get("logprobs"))}
    return text, asked


def response(asked: dict[str, Any], line: int, result: Result) -> dict[str, Any]:
    """The line for ``result``; ``asked`` is what ``read_request`` gave, empty when it gave nothing."""
    custom_id = asked.get("custom_id", f"line-{line}")
    head = {"id": f"batch_req_{result.id}", "custom_id": custom_id}
    if result.error is not None:
        code, message = result.error.code, result.error.message
        status = 400 if code in NEVER_RETRIED else 500
        body: dict[str, Any] = {
            "error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}
        }
        told = {"status_code": status, "request_id": result.id, "body": body}
        return {**head, "response": told, "error": {"code": code, "message": message}}
    [found] = result.results.values()
    chat = asked["url"] == CHAT
    content = _content(found)
    choice: dict[str, Any] = {"index": 0}
    choice |= {"message": {"role": "assistant", "content": content}} if chat else {"text": content}
    choice["logprobs"] = _logprobs(found, chat=chat) if asked["logprobs"] else None
    choice["finish_reason"] = found.finish_reason if isinstance(found, GeneratedText) else "stop"
    body = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{result.id}",
        "object": "chat.completion" if chat else "text_completion",
        "created": int(datetime.fromisoformat(result.finished_at).timestamp()),
        "model": result.model.id if result.model else "",
        "choices": [choice],
    }
    told = {"status_code": 200, "request_id": result.id, "body": body}
    return {**head, "response": told, "error": None}


def _content(found: Answer) -> str:
    """A label or a text as it is, any other answer as JSON."""
    match found:
        case LabelScores():
            return found.label
        case GeneratedText():
            return found.text
        case Extracted():
            return json.dumps(found.data, ensure_ascii=False)
    return found.model_dump_json()


def _last_of_user(messages: Any) -> Any:
    """A message's content is a text, or a list of parts of which those of type ``text`` count."""
    if not isinstance(messages, list):
        return None
    for message in reversed(messages):
        if isinstance(message, dict) and message.get("role") == "user":
            content = message.get("content")
            if not isinstance(content, list):
                return content
            parts = [part.get("text") for part in content if isinstance(part, dict)]
            return "\n".join(part for part in parts if isinstance(part, str)) or None
    return None


def _logprobs(found: Answer, *, chat: bool) -> dict[str, Any] | None:
    """A label as one token, with all labels as its alternatives; None for another answer."""
    if not isinstance(found, LabelScores):
        return None
    logs = {
        label: max(LEAST_LOGPROB, math.log(score)) if score > 0 else LEAST_LOGPROB
        for label, score in found.scores.items()
    }
    if not chat:
        return {
            "tokens": [found.label], "token_logprobs": [logs[found.label]], "top_logprobs": [logs],
            "text_offset": [0],
        }  # fmt: skip
    tokens = [{"token": label, "logprob": log, "bytes": list(label.encode())} for label, log in logs.items()]
    tokens.sort(key=lambda token: -logs[str(token["token"])])
    first = next(token for token in tokens if token["token"] == found.label)
    return {"content": [{**first, "top_logprobs": tokens}]}
