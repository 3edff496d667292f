"""Settings of the HTTP gateway (``moodq gateway``): part of ``settings.Settings``."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings

#: Bytes a callbacks' secret has at least: as many as the hash it is used with gives.
SHORTEST_CALLBACK_SECRET = 32


class GatewaySettings(BaseSettings):
    """Where the gateway listens, whom it lets in, and what a request may ask for."""

    gateway_host: str = Field(
        "127.0.0.1",
        min_length=1,
        max_length=255,
        description="address the gateway listens on; beyond this machine only with keys",
    )
    gateway_port: int = Field(8080, ge=0, le=65_535, description="0: any free port")
    gateway_keys: str | None = Field(
        None,
        max_length=65_536,
        description="API keys as name=sha256, separated by commas; `moodq gateway key new` makes one",
    )
    gateway_keys_file: Path | None = Field(
        None, description="file of such keys, one a line; a saved change counts within a second"
    )
    gateway_requests_per_s: int = Field(
        100, ge=0, le=1_000_000, description="requests a second that one key may send; 0: any"
    )
    gateway_max_body_kb: int = Field(1_024, ge=1, le=524_288, description="KiB one request's body may have")
    gateway_max_wait_s: float = Field(
        30.0, ge=0.0, le=600.0, description="seconds POST /v1/analyze waits for a result at most"
    )
    gateway_max_open: int = Field(
        1_000, ge=1, le=100_000, description="waits and event streams open at the same time"
    )
    gateway_heartbeat_s: float = Field(
        15.0, ge=0.1, le=300.0, description="seconds without an event after which a stream sends a comment"
    )
    gateway_callback_secret: SecretStr | None = Field(
        None,
        description="secret of at least 32 characters from which each key's for signing callbacks is made; "
        "unset: callback_url is refused",
    )
    gateway_callback_private: bool = Field(
        False, description="let callbacks go to private, loopback and link-local addresses, and to plain http"
    )
    gateway_callback_attempts: int = Field(
        8, ge=1, le=100, description="times a callback is sent before it is given up"
    )
    gateway_callback_backoff_s: float = Field(
        5.0,
        ge=0.01,
        le=3_600.0,
        description="seconds before a callback is sent again, doubled up to an hour, less up to half of it",
    )
    gateway_callback_timeout_s: float = Field(
        10.0, ge=0.1, le=120.0, description="seconds a receiver may take to answer a callback"
    )
    gateway_max_callbacks: int = Field(
        10_000, ge=1, le=1_000_000, description="callbacks that may be waiting at the same time"
    )

    @field_validator("gateway_callback_secret")
    @classmethod
    def _long_enough(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < SHORTEST_CALLBACK_SECRET:
            raise ValueError(f"must have at least {SHORTEST_CALLBACK_SECRET} characters")
        return value
