"""API keys: who may use the gateway. Only hashes are kept; a key itself is shown once, when it is made.

A key is 32 random bytes, so its plain SHA-256 cannot be guessed back and no slow hash is needed.
"""

from __future__ import annotations

import hashlib
import logging
import re
import secrets
import time
from pathlib import Path

from moodq_config.errors import ConfigError
from moodq_config.settings import Settings

log = logging.getLogger(__name__)

KEY_PREFIX = "mq_"
KEY_BYTES = 32
#: Seconds between two looks at the file of keys.
LOOK_EVERY_S = 1.0

NAME_PATTERN = r"[A-Za-z0-9_.\-]{1,64}"
_ENTRY = re.compile(rf"(?P<name>{NAME_PATTERN})=(?P<hash>[0-9a-f]{{64}})")


def new_key() -> str:
    """A key nobody has."""
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def hash_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


class Keys:
    """The keys of the settings and of their file. ``required`` stays as it was at the start: a file that is
    emptied locks everybody out, it does not open the door. Raises ``ConfigError``."""

    def __init__(self, settings: Settings) -> None:
        self._path = settings.gateway_keys_file
        self._fixed = _parsed((settings.gateway_keys or "").split(","), "MOODQ_GATEWAY_KEYS")
        self._names = dict(self._fixed)
        self._seen: tuple[int, int] | None = None
        self._looked_at = -LOOK_EVERY_S
        self.required = settings.gateway_keys is not None or self._path is not None
        if self._path is not None:
            self._read(self._path)

    def name_of(self, key: str) -> str | None:
        """The name of a key, None when it is nobody's."""
        self._look_again()
        return self._names.get(hash_of(key))

    def _look_again(self) -> None:
        if self._path is None or time.monotonic() - self._looked_at < LOOK_EVERY_S:
            return
        try:
            self._read(self._path)
        except ConfigError as error:
            log.error("%s; the keys from before stay in force", error.message)

    def _read(self, path: Path) -> None:
        self._looked_at = time.monotonic()
        try:
            seen = path.stat()
            if (seen.st_mtime_ns, seen.st_ino) == self._seen:
                return
            lines = path.read_text("utf-8").splitlines()
            self._seen = seen.st_mtime_ns, seen.st_ino
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"MOODQ_GATEWAY_KEYS_FILE: cannot read {path}: {error}") from error
        kept = [line.partition("#")[0] for line in lines]
        self._names = self._fixed | _parsed(kept, f"MOODQ_GATEWAY_KEYS_FILE {path}")


def _parsed(entries: list[str], source: str) -> dict[str, str]:
    """Names by hash. A wrong entry is told by its number: it may hold a key instead of a hash."""
    names: dict[str, str] = {}
    for number, entry in enumerate(entries, 1):
        if not entry.strip():
            continue
        found = _ENTRY.fullmatch(entry.strip())
        if found is None:
            raise ConfigError(
                f"{source}: entry {number} is not name=sha256 in lower-case hex; "
                "`moodq gateway key new NAME` prints one"
            )
        names[found["hash"]] = found["name"]
    return names
