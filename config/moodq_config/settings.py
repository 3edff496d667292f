"""Settings, built once at the edge and passed down.

Sources, strongest first: keyword arguments, ``MOODQ_*`` variables, ``.env``, a TOML file
(``$MOODQ_CONFIG`` or ``./moodq.toml``), the defaults below.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from moodq_config.contracts import TaskName
from moodq_config.errors import ConfigError
from moodq_config.names import BULK, INTERACTIVE
from moodq_config.redis_url import (
    SERVER_SCHEMES,
    check_port,
    embedded_url_file,
    mask_url,
    sentinel_url,
    server_url,
)
from moodq_config.settings_clients import ClientSettings
from moodq_config.settings_conversations import ConversationSettings
from moodq_config.settings_gateway import GatewaySettings
from moodq_config.settings_remote import RemoteSettings
from moodq_config.settings_sources import ENV_PREFIX, config_file, explain, origins_of, refuse_unknown_names

__all__ = [
    "ENV_PREFIX",
    "Settings",
    "config_file",
    "embedded_url_file",
    "load_settings",
    "mask_url",
    "origins",
    "server_url",
]

IdPrefix = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]{1,32}$")]
QueueName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]{1,64}$")]


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "moodq"


class Settings(RemoteSettings, ClientSettings, ConversationSettings, GatewaySettings):
    """Every setting of producer and worker. A field ``x`` is the variable ``MOODQ_X``."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_file=".env", extra="ignore", frozen=True)

    # where
    redis_url: str | None = Field(
        None,
        description="redis://, rediss:// or unix:// URL, or sentinel://host,host,host/service/db "
        "(rediss+sentinel:// with TLS); unset: the embedded server of `moodq up` in the data folder",
    )
    redis_ca_file: Path | None = Field(
        None, description="PEM file of the authorities that sign Redis's certificate; unset: the system's"
    )
    redis_cert_file: Path | None = Field(
        None, description="PEM file of this client's certificate, for a Redis that asks for one"
    )
    redis_key_file: Path | None = Field(None, description="PEM file of the key of MOODQ_REDIS_CERT_FILE")
    data_dir: Path = Field(
        default_factory=_default_data_dir, description="models and the embedded server's files"
    )
    tasks_file: Path | None = Field(None, description="TOML file whose tasks overlay the shipped ones")

    # queues
    queues: Annotated[tuple[QueueName, ...], NoDecode] = Field(
        (INTERACTIVE, BULK),
        min_length=1,
        max_length=16,
        description="queues a worker serves, first is most urgent",
    )
    bulk_share: float = Field(
        0.25,
        ge=0.0,
        le=1.0,
        description="share of batches that go to later queues while the first one is busy",
    )
    queue_weights: Annotated[dict[QueueName, Annotated[float, Field(gt=0.0, le=1_000.0)]], NoDecode] = Field(
        {},
        description="how later queues divide their share, as bulk=3,logs=1; 1 for those not named",
    )
    max_queue_length: int = Field(
        100_000, ge=1, le=10_000_000, description="jobs a queue may hold before producers get queue_full"
    )
    max_redis_mb: int = Field(
        4_096,
        ge=0,
        le=16_777_216,
        description="MiB of Redis used by all its keys, at which producers get queue_full and workers claim "
        "nothing until results expire; 0: not looked at",
    )
    max_items_per_job: int = Field(1_000, ge=1, le=10_000, description="items one job may carry")
    max_job_mb: int = Field(32, ge=1, le=512, description="MiB the data of one job may have, uncompressed")
    max_text_chars: int = Field(8_000, ge=1, le=100_000, description="characters one text may have")
    max_text_tokens: int = Field(2_048, ge=8, le=8_192, description="tokens one text may have")
    long_text: Literal["refuse", "truncate"] = Field(
        "refuse",
        description="what becomes of a longer text; truncate: its beginning counts, its result says so",
    )
    max_metadata_bytes: int = Field(
        4_096, ge=2, le=65_536, description="bytes one item's metadata may have as JSON"
    )
    result_ttl_s: int = Field(3_600, ge=10, le=604_800, description="seconds a result is kept")
    failure_ttl_s: int = Field(86_400, ge=10, le=31_536_000, description="seconds a failed job is kept")
    max_ttl_s: int = Field(
        86_400,
        ge=10,
        le=31_536_000,
        description="seconds an ended job is kept at most when it asks for more than the two above",
    )
    max_events: int = Field(
        2_048, ge=16, le=65_536, description="entries the event stream of one item may have"
    )
    client_name: str = Field(
        "default", pattern=r"^[A-Za-z0-9_.\-]{1,64}$", description="producers of one name share one rate"
    )
    id_prefix: str = Field(
        "",
        pattern=r"^[A-Za-z0-9_\-]{0,32}$",
        description="what ids that a producer sends begin with; ids it makes up get it",
    )
    queue_id_prefixes: Annotated[dict[QueueName, IdPrefix], NoDecode] = Field(
        {},
        description="what ids of jobs and items on a queue must begin with, as shop=shop-; a worker touches "
        "no others, so that producers with a queue and a Redis user each cannot answer for one another",
    )
    max_items_per_s: float = Field(
        0.0,
        ge=0.0,
        le=1_000_000.0,
        description="items a second that the producers of one client name may send; 0: any",
    )
    max_attempts: int = Field(3, ge=1, le=20, description="times a job is started before it is given up")
    retry_backoff_s: float = Field(
        1.0,
        ge=0.0,
        le=3_600.0,
        description="seconds before a failed job is started again, doubled each time, less up to half of it",
    )
    max_retry_backoff_s: float = Field(
        60.0, ge=0.0, le=86_400.0, description="seconds of such a wait at most"
    )

    # worker
    worker_name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.\-]{1,128}$", description="unset: host and pid"
    )
    processes: Annotated[int, Field(ge=1, le=256)] | Literal["auto"] = Field(
        1,
        description="worker processes of one `moodq worker`, each with its group of cores or its GPU; "
        "auto: one a GPU, else one for 8 cores",
    )
    lease_s: float = Field(
        30.0, ge=2.0, le=600.0, description="seconds without a heartbeat after which a job is taken over"
    )
    drain_timeout_s: float = Field(
        30.0, ge=0.0, le=600.0, description="seconds SIGTERM gives the work in hand"
    )
    batch_tokens: int | None = Field(
        None,
        ge=64,
        le=65_536,
        description="new tokens of one label batch at most; unset: measured at start-up",
    )
    hang_timeout_s: float = Field(
        300.0,
        ge=1.0,
        le=3_600.0,
        description="seconds one engine call may take before the worker counts as stuck and ends",
    )
    pass_timeout_s: float = Field(
        60.0,
        ge=0.05,
        le=3_600.0,
        description="seconds one forward pass may take; a batch over it is run again in halves",
    )
    reply_timeout_s: float = Field(
        300.0, ge=0.1, le=3_600.0, description="seconds one text may be in the decode batch"
    )
    cache_ttl_s: int = Field(
        86_400, ge=0, le=30 * 86_400, description="seconds a label is remembered for the same text; 0: never"
    )
    cache_entries: int = Field(
        200_000, ge=2, le=50_000_000, description="labels remembered at most, some 300 bytes of Redis each"
    )
    max_wait_ms: float = Field(
        0.0,
        ge=0.0,
        le=1_000.0,
        description="how long an idle worker waits for company before it runs a part-filled batch",
    )
    max_replies: int = Field(32, ge=1, le=256, description="texts generated together at most")
    kv_tokens: int = Field(
        24_576,
        ge=1_024,
        le=16_777_216,
        description="KV cache of running replies at most, in tokens: rows times the longest, or all pages",
    )

    prefix_tokens: int = Field(
        16_384,
        ge=1_024,
        le=16_777_216,
        description="KV cache of the tasks' fixed prompts at most, in tokens; the least used go first",
    )
    warm_tasks: Annotated[tuple[TaskName, ...], NoDecode] = Field(
        ("sentiment", "reply"),
        max_length=256,
        description="tasks whose prompts are computed before the worker is ready, not with their first text",
    )

    # engine
    engine: Literal["hf", "fake"] = Field(
        "hf", description="hf: Transformers; fake: deterministic, for queue tests"
    )
    model: str = Field(
        "default",
        min_length=1,
        max_length=512,
        description="'default', a declared source's name, a local folder, or a hub id",
    )
    model_revision: str | None = Field(None, max_length=128, description="a hub model's revision")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto")
    precision: Literal["auto", "bf16", "fp32", "fp16", "int8"] = Field(
        "auto", description="auto: bf16 where native; int8: half the memory, faster replies, CPU only"
    )
    decode: Literal["auto", "loop", "continuous"] = Field(
        "auto",
        description="what writes replies: moodq's own loop or Transformers' continuous batching; auto: the "
        "loop, and on a CUDA device the faster of both, measured at start-up",
    )
    threads: int = Field(0, ge=0, le=1_024, description="0: the cores this process really has")

    # endpoints
    metrics_host: str = Field("127.0.0.1", min_length=1, max_length=255)
    metrics_port: int = Field(
        9464, ge=0, le=65_535, description="the next ones for further processes; 0: any free port"
    )
    metrics_address: str | None = Field(
        None,
        pattern=r"^(?:[A-Za-z0-9._\-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?$",
        description="host or host:port at which Prometheus reaches this worker, told through Redis; unset: "
        "MOODQ_METRICS_HOST, or the address that Redis sees if that is all of them",
    )

    # logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO")
    log_texts: bool = Field(
        False, description="log texts, metadata and the words of errors that may quote them"
    )
    log_format: Literal["auto", "text", "json"] = Field(
        "auto", description="auto: text on a terminal, elsewhere JSON, one object a line"
    )
    log_jobs: Literal["auto", "all", "failed", "none"] = Field(
        "auto",
        description="jobs of which a worker logs a line when they end; auto: all in JSON, none in text",
    )

    @field_validator("queues", "warm_tasks", mode="before")
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("queue_weights", "queue_id_prefixes", mode="before")
    @classmethod
    def _split_weights(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        return {name.strip(): weight.strip() for name, _, weight in pairs}

    @field_validator("queue_id_prefixes")
    @classmethod
    def _known_queues(cls, value: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        for name in value:
            if name not in info.data.get("queues", ()):
                raise ValueError(f"{name!r} is not one of MOODQ_QUEUES")
        return value

    @field_validator("queue_weights")
    @classmethod
    def _later_queues(cls, value: dict[str, float], info: ValidationInfo) -> dict[str, float]:
        later = info.data.get("queues", ())[1:]
        for name in value:
            if name not in later:
                raise ValueError(
                    f"{name!r} is not one of MOODQ_QUEUES after the first, whose part is 1 - MOODQ_BULK_SHARE"
                )
        return value

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            if value.partition("://")[0] in SERVER_SCHEMES:
                check_port(value)
                return value
            if sentinel_url(value) is not None:
                return value
        except ConfigError as error:
            raise ValueError(error.message.removeprefix("MOODQ_REDIS_URL: ")) from None
        raise ValueError("must begin with redis://, rediss://, unix://, sentinel:// or rediss+sentinel://")

    @field_validator("redis_ca_file", "redis_cert_file", "redis_key_file")
    @classmethod
    def _readable(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None:
            return None
        if not (info.data.get("redis_url") or "").startswith("rediss"):
            raise ValueError("goes with a MOODQ_REDIS_URL that begins with rediss://")
        if not value.is_file():
            raise ValueError(f"{value} is not a file")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: Any) -> Any:
        return value.upper() if isinstance(value, str) else value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        toml = TomlConfigSettingsSource(settings_cls, toml_file=config_file())
        return init_settings, env_settings, dotenv_settings, toml


def load_settings(**overrides: Any) -> Settings:
    """Build the settings. Raises ``ConfigError`` naming the variable, the accepted range and the fix."""
    refuse_unknown_names(Settings.model_fields)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigError(
            "\n".join(explain(entry, Settings.model_fields) for entry in error.errors(include_url=False))
        ) from None


def origins(settings: Settings, overrides: dict[str, Any] | None = None) -> dict[str, str]:
    """Where each value came from: ``argument``, ``environment``, ``.env``, the TOML file or ``default``."""
    return origins_of(type(settings).model_fields, overrides)
