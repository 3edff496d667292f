"""Where settings come from: which names are known, and which source gave each value.

``settings`` reads the values; here are the files by name, the refusal of names nobody knows, and the
explanation of a value that was refused.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo

from moodq_config.errors import ConfigError

ENV_PREFIX = "MOODQ_"
DEFAULT_CONFIG_FILE = "moodq.toml"
#: Fields whose values hold a password or a key; no message repeats them.
SECRET = frozenset({"redis_url", "remote_url", "remote_api_key", "gateway_callback_secret"})


def config_file() -> Path:
    """The TOML file that is read: ``$MOODQ_CONFIG``, or ``moodq.toml`` in the working folder."""
    return Path(os.environ.get(f"{ENV_PREFIX}CONFIG", DEFAULT_CONFIG_FILE))


def origins_of(fields: Iterable[str], overrides: dict[str, Any] | None = None) -> dict[str, str]:
    """Where each value came from: ``argument``, ``environment``, ``.env``, the TOML file or ``default``."""
    environment = {name.lower().removeprefix("moodq_") for name in os.environ if name.startswith(ENV_PREFIX)}
    dotenv = {name.lower().removeprefix("moodq_") for name in _dotenv_names()}
    file = set(_toml_values())
    found: dict[str, str] = {}
    for field in fields:
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


def explain(entry: Any, fields: Mapping[str, FieldInfo]) -> str:
    """One of pydantic's errors as a line: variable, what is wrong, what is accepted."""
    field = str(entry["loc"][0]) if entry["loc"] else "settings"
    info = fields.get(field)
    limits = []
    for constraint in info.metadata if info else []:
        for name, sign in (("ge", "at least"), ("le", "at most"), ("pattern", "matching")):
            if getattr(constraint, name, None) is not None:
                limits.append(f"{sign} {getattr(constraint, name)}")
    accepted = f" (accepted: {', '.join(limits)})" if limits else ""
    given = entry.get("input")
    shown = "" if field in SECRET or given is None or not entry["loc"] else f" {given!r} is wrong:"
    if not entry["loc"]:  # of several fields together; the message names them
        return str(entry["msg"]).removeprefix("Value error, ")
    return f"{ENV_PREFIX}{field.upper()}:{shown} {entry['msg']}{accepted}"


def refuse_unknown_names(fields: Iterable[str]) -> None:
    """Raises ``ConfigError`` for a ``MOODQ_`` name of environment, ``.env`` or TOML that is no setting."""
    known = {f"{ENV_PREFIX}{field.upper()}" for field in fields} | {f"{ENV_PREFIX}CONFIG"}
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
