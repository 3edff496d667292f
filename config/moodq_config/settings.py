"""Settings, built once at the edge and passed down.

Sources, strongest first: keyword arguments, ``MOODQ_*`` variables, ``.env``, a TOML file
(``$MOODQ_CONFIG`` or ``./moodq.toml``), the defaults below.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from moodq_config.errors import ConfigError, Unavailable
from moodq_config.names import BULK, INTERACTIVE

ENV_PREFIX = "MOODQ_"
DEFAULT_CONFIG_FILE = "moodq.toml"

QueueName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_\-]{1,64}$")]


def _default_data_dir() -> Path:
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "moodq"


class Settings(BaseSettings):
    """Every setting of producer and worker. A field ``x`` is the variable ``MOODQ_X``."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_file=".env", extra="ignore", frozen=True)

    # where
    redis_url: str | None = Field(
        None,
        description="redis://, rediss:// or unix:// URL; unset: the embedded "
        "server of `moodq up` in the data folder",
    )
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
    max_items_per_job: int = Field(1_000, ge=1, le=10_000, description="items one job may carry")
    max_text_chars: int = Field(8_000, ge=1, le=100_000, description="characters one text may have")
    max_text_tokens: int = Field(2_048, ge=8, le=8_192, description="tokens one text may have")
    result_ttl_s: int = Field(3_600, ge=10, le=604_800, description="seconds a result is kept")
    failure_ttl_s: int = Field(86_400, ge=10, le=31_536_000, description="seconds a failed job is kept")
    max_attempts: int = Field(3, ge=1, le=20, description="times a job is started before it is given up")

    # worker
    worker_name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.\-]{1,128}$", description="unset: host and pid"
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
        16_384,
        ge=1_024,
        le=16_777_216,
        description="KV cache of running replies at most: rows times the longest, in tokens",
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
    threads: int = Field(0, ge=0, le=1_024, description="0: the cores this process really has")

    # endpoints
    metrics_host: str = Field("127.0.0.1", min_length=1, max_length=255)
    metrics_port: int = Field(9464, ge=0, le=65_535, description="0: any free port")

    # logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO")

    @field_validator("queues", mode="before")
    @classmethod
    def _split_queues(cls, value: Any) -> Any:
        return (
            tuple(part.strip() for part in value.split(",") if part.strip())
            if isinstance(value, str)
            else value
        )

    @field_validator("queue_weights", mode="before")
    @classmethod
    def _split_weights(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        return {name.strip(): weight.strip() for name, _, weight in pairs}

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
        if value is not None and urlsplit(value).scheme not in {"redis", "rediss", "unix"}:
            raise ValueError("must begin with redis://, rediss:// or unix://")
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


def config_file() -> Path:
    """The TOML file that is read: ``$MOODQ_CONFIG``, or ``moodq.toml`` in the working folder."""
    return Path(os.environ.get(f"{ENV_PREFIX}CONFIG", DEFAULT_CONFIG_FILE))


def load_settings(**overrides: Any) -> Settings:
    """Build the settings. Raises ``ConfigError`` naming the variable, the accepted range and the fix."""
    _refuse_unknown_names()
    try:
        return Settings(**overrides)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(entry) for entry in error.errors(include_url=False))) from None


def origins(settings: Settings, overrides: dict[str, Any] | None = None) -> dict[str, str]:
    """Where each value came from: ``argument``, ``environment``, ``.env``, the TOML file or ``default``."""
    environment = {name.lower().removeprefix("moodq_") for name in os.environ if name.startswith(ENV_PREFIX)}
    dotenv = {name.lower().removeprefix("moodq_") for name in _dotenv_names()}
    file = set(_toml_values())
    found: dict[str, str] = {}
    for field in type(settings).model_fields:
        if overrides and field in overrides:
            found[field] = "argument"
        elif field in environment:
            found[field] = "environment"
        elif field in dotenv:
            found[field] = ".env"
        elif field in file:
            found[field] = str(config_file())
        else:
            found[field] = "default"
    return found


def embedded_url_file(settings: Settings) -> Path:
    """Where ``moodq up`` writes the URL of the embedded server it started."""
    return settings.data_dir / "valkey" / "url"


def server_url(settings: Settings) -> str:
    """The Redis URL to use. Raises ``Unavailable`` (redis_unreachable) when there is none."""
    if settings.redis_url is not None:
        return settings.redis_url
    try:
        return embedded_url_file(settings).read_text("utf-8").strip()
    except FileNotFoundError:
        raise Unavailable(
            "no Redis: MOODQ_REDIS_URL is not set and no embedded server has been started; run `moodq up` "
            "in another terminal, or set MOODQ_REDIS_URL"
        ) from None


def mask_url(url: str) -> str:
    """``url`` with its passwords (user part and query) replaced, fit for logs and screens."""
    return _PASSWORD_IN_USER_PART.sub(r"//\1:***@", _PASSWORD_IN_QUERY.sub(r"\1=***", url))


#: redis-py takes ``unix://…?password=…``, and sentinel_password, ssl_password likewise.
_PASSWORD_IN_QUERY = re.compile(r"(?i)([?&][^&=]*password)=[^&]*")
#: Up to the last ``@``: a password in which ``/``, ``?`` or ``#`` was not escaped is hidden as well.
_PASSWORD_IN_USER_PART = re.compile(r"//([^:/@]*):.*@")


def _explain(entry: Any) -> str:
    field = str(entry["loc"][0]) if entry["loc"] else "settings"
    info = Settings.model_fields.get(field)
    limits = []
    for constraint in info.metadata if info else []:
        for name, sign in (("ge", "at least"), ("le", "at most"), ("pattern", "matching")):
            if getattr(constraint, name, None) is not None:
                limits.append(f"{sign} {getattr(constraint, name)}")
    accepted = f" (accepted: {', '.join(limits)})" if limits else ""
    given = entry.get("input")
    shown = "" if field == "redis_url" or given is None else f" {given!r} is wrong:"
    return f"{ENV_PREFIX}{field.upper()}:{shown} {entry['msg']}{accepted}"


def _refuse_unknown_names() -> None:
    known = {f"{ENV_PREFIX}{field.upper()}" for field in Settings.model_fields} | {f"{ENV_PREFIX}CONFIG"}
    given = [name for name in os.environ if name.startswith(ENV_PREFIX)]
    given += _dotenv_names() + [f"{ENV_PREFIX}{field.upper()}" for field in _toml_values()]
    if f"{ENV_PREFIX}CONFIG" in given and f"{ENV_PREFIX}CONFIG" not in os.environ:
        raise ConfigError(f"{ENV_PREFIX}CONFIG counts in the environment only; take it out of .env and TOML")
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "`moodq config` lists the known ones"
            raise ConfigError(f"{name} is not a setting; {hint}")


def _dotenv_names() -> list[str]:
    path = Path(".env")
    if not path.is_file():
        return []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f".env cannot be read: {error}; it must be UTF-8 text") from None
    names = [line.split("=", 1)[0].strip().removeprefix("export ").strip() for line in lines if "=" in line]
    return [name for name in names if name.startswith(ENV_PREFIX)]


def _toml_values() -> dict[str, Any]:
    path = config_file()
    if not path.is_file():
        if f"{ENV_PREFIX}CONFIG" in os.environ:
            raise ConfigError(f"{ENV_PREFIX}CONFIG names {path}, which is not a file")
        return {}
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from None
