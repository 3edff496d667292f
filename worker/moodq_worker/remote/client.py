"""One chat completion of an OpenAI-compatible endpoint, bounded in time and bytes.

What comes back is checked like anything from outside. Neither texts nor the key are ever part of an error.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Literal, TypedDict

import httpx
from pydantic import BaseModel, ConfigDict, Field, ValidationError

#: More than any answer within the tokens asked for.
MAX_ANSWER_BYTES = 1024 * 1024
TOP_LOGPROBS = 20

#: How a request went. ``refused``: HTTP 4xx; ``failed``: 5xx or 429; ``garbage``: no chat completion;
#: ``wrong_answer``: one, but not what was asked for; the last four: none was sent.
Outcome = Literal[
    "done", "timeout", "unreachable", "refused", "failed", "garbage", "wrong_answer",
    "budget", "breaker_open", "busy", "internal",
]  # fmt: skip


class Message(TypedDict):
    role: str
    content: str


class RemoteError(Exception):
    """The endpoint gave no answer that counts."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome)
        self.outcome: Outcome = outcome


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class _Top(_Read):
    token: str
    logprob: float


class _Token(_Read):
    top_logprobs: list[_Top] = Field(default_factory=list, max_length=TOP_LOGPROBS)


class _Logprobs(_Read):
    content: list[_Token] | None = None


class _Message(_Read):
    content: str | None = None


class _Choice(_Read):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(_Read):
    completion_tokens: int = Field(0, ge=0, le=1_000_000_000)
    total_tokens: int = Field(0, ge=0, le=1_000_000_000)


class Completion(_Read):
    """``choices`` has one; ``made`` are the tokens of the answer, as the endpoint counts them."""

    choices: list[_Choice] = Field(min_length=1, max_length=1)
    usage: _Usage | None = None

    @property
    def text(self) -> str:
        return self.choices[0].message.content or ""

    @property
    def finish_reason(self) -> Literal["stop", "length"]:
        return "length" if self.choices[0].finish_reason == "length" else "stop"

    @property
    def made(self) -> int:
        return self.usage.completion_tokens if self.usage else 0

    @property
    def total_tokens(self) -> int:
        return self.usage.total_tokens if self.usage else 0

    @property
    def first_token(self) -> Mapping[str, float]:
        """Log-probabilities of the likeliest first tokens; empty when the endpoint gives none."""
        logprobs = self.choices[0].logprobs
        content = logprobs.content if logprobs else None
        return {top.token: top.logprob for top in content[0].top_logprobs} if content else {}


class RemoteClient:
    """Used from several threads. Redirects are not followed: texts go where the settings say."""

    def __init__(
        self, url: str, model: str, api_key: str | None, *, timeout_s: float, logprobs: bool
    ) -> None:
        self._url = f"{url}/chat/completions"
        self._model = model
        self._timeout_s = timeout_s
        self._logprobs = logprobs
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = httpx.Client(headers=headers, timeout=timeout_s, follow_redirects=False)

    def close(self) -> None:
        self._http.close()

    def complete(self, messages: list[Message], max_tokens: int, *, logprobs: bool) -> Completion:
        """Greedy. Raises ``RemoteError``."""
        body: dict[str, Any] = {
            "model": self._model,
            "messages": messages,
            "max_tokens": max_tokens,
            "temperature": 0,
        }
        if logprobs and self._logprobs:
            body |= {"logprobs": True, "top_logprobs": TOP_LOGPROBS}
        try:
            return Completion.model_validate_json(self._post(body))
        except httpx.TimeoutException:
            raise RemoteError("timeout") from None
        except (httpx.HTTPError, httpx.InvalidURL):
            raise RemoteError("unreachable") from None
        except ValidationError:
            raise RemoteError("garbage") from None

    def _post(self, body: dict[str, Any]) -> bytes:
        """The answer. httpx bounds each read; the deadline here bounds all of them together."""
        deadline = time.monotonic() + self._timeout_s
        received = bytearray()
        with self._http.stream("POST", self._url, json=body) as response:
            if response.status_code != httpx.codes.OK:
                later = response.status_code >= 500 or response.status_code == httpx.codes.TOO_MANY_REQUESTS
                raise RemoteError("failed" if later else "refused")
            for chunk in response.iter_bytes():
                received += chunk
                if len(received) > MAX_ANSWER_BYTES:
                    raise RemoteError("garbage")
                if time.monotonic() > deadline:
                    raise RemoteError("timeout")
        return bytes(received)
