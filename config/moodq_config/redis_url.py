"""The Redis URL: where it comes from, what a Sentinel one means, and how it is shown."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from moodq_config.errors import ConfigError, Unavailable

if TYPE_CHECKING:
    from moodq_config.settings import Settings

#: Schemes of a single server, and of one found through Sentinels, each plain and with TLS.
SERVER_SCHEMES = ("redis", "rediss", "unix")
SENTINEL_SCHEMES = {"sentinel": "redis", "rediss+sentinel": "rediss"}
SENTINEL_PORT = 26379


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """``sentinel://[user:password@]host[:port][,…]/service[/db][?options]``, taken apart.

    ``server_url`` is a URL of redis-py with the credentials, database and options of the server; its host
    means nothing, the Sentinels say where the master is. ``username`` and ``password`` are the Sentinels'
    own, the options ``sentinel_username`` and ``sentinel_password``.
    """

    nodes: tuple[tuple[str, int], ...]
    service: str
    server_url: str
    username: str | None
    password: str | None


def sentinel_url(url: str) -> SentinelUrl | None:
    """``url`` taken apart when it is one of Sentinels, else None. Raises ``ConfigError`` when it is wrong."""
    scheme, _, rest = url.partition("://")  # urlsplit takes one host only
    if scheme not in SENTINEL_SCHEMES:
        return None
    address, _, query = rest.partition("?")
    place, _, path = address.partition("/")
    user, at, hosts = place.rpartition("@")
    nodes = tuple(_node(host) for host in hosts.split(","))
    service, _, database = path.partition("/")
    if not service or (database and not database.isdecimal()):
        raise _not_sentinel("the service's name and a number for the database", "/mymaster/0")
    options = dict(parse_qsl(query, keep_blank_values=True))
    username, password = options.pop("sentinel_username", None), options.pop("sentinel_password", None)
    server = f"{SENTINEL_SCHEMES[scheme]}://{user}{at}sentinel/{database or 0}"
    server += f"?{urlencode(options)}" if options else ""
    return SentinelUrl(nodes, service, server, username, password)


def _node(host: str) -> tuple[str, int]:
    found = _HOST_AND_PORT.fullmatch(host)
    port = int(found["port"] or SENTINEL_PORT) if found else 0
    if found is None or not 0 < port < 65_536:
        raise _not_sentinel("each Sentinel's host, and port if it is another", f"//a,b:{SENTINEL_PORT},c")
    return found["v6"] or found["host"], port


def _not_sentinel(what: str, example: str) -> ConfigError:
    return ConfigError(f"MOODQ_REDIS_URL: a Sentinel URL names {what}, as in {example}")


def check_port(url: str) -> None:
    """Raises ``ConfigError`` for a URL of one server whose port is none, without what urllib says of it: that
    quotes the password when a ``/`` in it was not escaped."""
    try:
        urlsplit(url).port  # noqa: B018
    except ValueError:
        raise ConfigError(
            "MOODQ_REDIS_URL: its port is no number; a password has %2F for /, %3F for ?, %23 for #"
        ) from None


def embedded_url_file(settings: Settings) -> Path:
    """Where ``moodq up`` writes the URL of the embedded server it started."""
    return settings.data_dir / "valkey" / "url"


def server_url(settings: Settings) -> str:
    """The Redis URL to use, with the files of TLS as redis-py takes them. Raises ``Unavailable``
    (redis_unreachable) when there is none."""
    if settings.redis_url is not None:
        files = {
            "ssl_ca_certs": settings.redis_ca_file,
            "ssl_certfile": settings.redis_cert_file,
            "ssl_keyfile": settings.redis_key_file,
        }
        named = urlencode({name: str(path) for name, path in files.items() if path is not None})
        joint = "&" if "?" in settings.redis_url else "?"
        return f"{settings.redis_url}{joint}{named}" if named else settings.redis_url
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


def secrets_in(url: str) -> tuple[str, ...]:
    """The passwords in ``url``, as written there and as sent: what no log may hold."""
    found = [match[1] for match in _PASSWORD.finditer(url)]
    return tuple(dict.fromkeys(form for one in found for form in (one, unquote(one)) if form))


def mask_urls(text: str) -> str:
    """``text`` with the password of every URL in it replaced."""
    return _PASSWORD_IN_ANY_URL.sub(r"\1:***@", _PASSWORD_IN_QUERY.sub(r"\1=***", text))


_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^\[\]:@/\s]+))(?::(?P<port>\d{1,5}))?")
#: redis-py takes ``unix://…?password=…``, and sentinel_password, ssl_password likewise.
_PASSWORD_IN_QUERY = re.compile(r"(?i)([?&][^&=\s]*password)=[^&\s]*")
#: Up to the last ``@``: a password in which ``/``, ``?`` or ``#`` was not escaped is hidden as well.
_PASSWORD_IN_USER_PART = re.compile(r"//([^:/@]*):.*@")
_PASSWORD_IN_ANY_URL = re.compile(r"(\b[a-z][a-z0-9+.]*://[^:/@\s]*):\S*@")
_PASSWORD = re.compile(r"(?i)(?:^[a-z+]+://[^:/@]*:|[?&][^&=]*password=)((?<=:).*(?=@)|(?<==)[^&]*)")
