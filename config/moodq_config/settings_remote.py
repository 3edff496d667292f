"""Settings of the hand-off to an OpenAI-compatible endpoint: part of ``settings.Settings``.

Without a URL no text leaves the machine, whatever else is set here.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode

from moodq_config.contracts import TaskName


class RemoteSettings(BaseSettings):
    """Where a hand-off goes, which texts it takes, and what it may cost."""

    remote_allow_http: bool = Field(
        False, description="let MOODQ_REMOTE_URL be http:// on another machine: texts and key go in the clear"
    )
    remote_url: str | None = Field(
        None,
        max_length=512,
        description="base URL of an OpenAI-compatible endpoint, as https://host/v1, that takes the texts "
        "named below; unset: texts never leave the machine",
    )
    remote_model: str | None = Field(
        None, min_length=1, max_length=256, description="the model to ask there; needed with MOODQ_REMOTE_URL"
    )
    remote_api_key: SecretStr | None = Field(None, description="its key, sent as a bearer token; never shown")
    remote_tasks: Annotated[tuple[TaskName, ...], NoDecode] = Field(
        (), max_length=256, description="tasks handed over always, of the kinds label, choose and generate"
    )
    remote_over_chars: int = Field(
        0, ge=0, le=1_000_000, description="texts of more characters are handed over; 0: by length none"
    )
    remote_below_probability: float = Field(
        0.0, ge=0.0, le=1.0, description="labels of a lower probability are asked there as well; 0: none"
    )
    remote_timeout_s: float = Field(
        20.0, ge=0.05, le=600.0, description="seconds an answer may take in all; then the model here is asked"
    )
    remote_concurrency: int = Field(4, ge=1, le=64, description="requests of a worker under way at once")
    remote_waiting: int = Field(
        64, ge=0, le=10_000, description="texts that may wait for one of these; more are done here"
    )
    remote_logprobs: bool = Field(
        False, description="ask for log-probabilities, of which a label's probabilities are made"
    )
    remote_requests_per_day: int = Field(
        1_000, ge=0, le=1_000_000_000, description="requests of all workers in a day of UTC; 0: any number"
    )
    remote_tokens_per_day: int = Field(
        1_000_000,
        ge=0,
        le=1_000_000_000_000,
        description="tokens, as the endpoint counts them, after which none is asked that day; 0: any number",
    )
    remote_failures: int = Field(
        5, ge=1, le=1_000, description="failures in a row after which the endpoint is left alone for a while"
    )
    remote_pause_s: float = Field(
        30.0, ge=0.05, le=86_400.0, description="seconds of that while; one request then tries it again"
    )

    @field_validator("remote_tasks", mode="before")
    @classmethod
    def _split_tasks(cls, value: object) -> object:
        return tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value

    @field_validator("remote_url")
    @classmethod
    def _private(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        url = urlsplit(value)
        if url.scheme not in ("http", "https") or not url.hostname:
            raise ValueError("must be the base URL of an endpoint, as https://host/v1")
        if url.username or url.password or url.query or url.fragment:
            raise ValueError("must have no user, password, ? or #; a key goes into MOODQ_REMOTE_API_KEY")
        if url.scheme == "http" and not (is_loopback(url.hostname) or info.data.get("remote_allow_http")):
            raise ValueError("must be https:// unless it is on this machine; see MOODQ_REMOTE_ALLOW_HTTP")
        return value.rstrip("/")

    @model_validator(mode="after")
    def _whole(self) -> RemoteSettings:
        if self.remote_url and not self.remote_model:
            raise ValueError("MOODQ_REMOTE_URL needs MOODQ_REMOTE_MODEL, the model to ask there")
        return self


def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine by name or by address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
