"""Where a callback may go: not into the network that the gateway stands in.

A name is looked up once, here, and the request goes to the address that was found and allowed: a name that
means another address a moment later changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from ipaddress import IPv4Address, IPv6Address

import httpx

from moodq_config.errors import BadInput, ErrorCode

MAX_URL = 2_048
#: Seconds a name may take to be looked up.
LOOKUP_S = 5.0
#: IPv6 in which an IPv4 address hides, after 96 bits: a translator would send it on to there.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def check_url(url: object, *, private: bool) -> str:
    """The URL, if a callback may be sent to it as far as can be told without looking its name up. With
    ``private`` also http and addresses that are not public. Raises ``BadInput`` (callback_refused)."""
    if not isinstance(url, str) or len(url) > MAX_URL:
        raise _refused(f"send a URL of at most {MAX_URL} characters")
    try:
        parts = httpx.URL(url)
        port = parts.port
    except (httpx.InvalidURL, ValueError):
        raise _refused("it is not a URL") from None
    if parts.scheme != "https" and not (private and parts.scheme == "http"):
        raise _refused("it must begin with https://")
    if not parts.host or parts.userinfo or parts.fragment or not 0 < (port or 443) < 65_536:
        raise _refused("it needs a host, and has no user, password or #")
    if not url.isascii() or any(char.isspace() or not char.isprintable() for char in url):
        raise _refused("write other characters than ASCII as %XX, a host's name as xn--…")
    try:
        address = ipaddress.ip_address(parts.host)
    except ValueError:
        return url
    if not (private or is_public(address)):
        raise _refused("its address is not public")
    return url


def is_public(address: IPv4Address | IPv6Address) -> bool:
    """Whether anybody's machine may be there: not this one, nor its network, nor one for special uses."""
    if isinstance(address, IPv6Address):
        hidden = address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]
        if hidden is None and address in _NAT64:
            hidden = IPv4Address(int(address) & 0xFFFF_FFFF)
        if hidden is not None:
            return is_public(hidden)
        if address.is_site_local:
            return False
    return address.is_global and not address.is_multicast


async def resolve(host: str, port: int, *, private: bool) -> str:
    """The address to connect to. Raises ``BadInput`` (callback_refused) when none that is found is allowed,
    ``OSError`` when none is found."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(LOOKUP_S):
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if private or is_public(ipaddress.ip_address(address.partition("%")[0])):
            return address
    raise _refused("its host has no public address")


def _refused(why: str) -> BadInput:
    return BadInput(
        f"field 'callback_url': {why}; MOODQ_GATEWAY_CALLBACK_PRIVATE lets callbacks go to this network",
        code=ErrorCode.CALLBACK_REFUSED,
        field="callback_url",
    )
