"""The Redis URL: where it comes from, and how it is shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from moodq_config.errors import Unavailable

if TYPE_CHECKING:
    from moodq_config.settings import Settings


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
