"""Who may call, and how often: the key of a request and its rate; a dependency of every route under /v1."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from moodq_config.errors import BadInput, ErrorCode
from moodq_config.settings_remote import is_loopback
from moodq_producer.gateway.edge import KEY_SCOPE
from moodq_producer.gateway.services import Services, services_of

#: The name of whoever calls a gateway without keys.
NOBODY = "local"

_bearer = HTTPBearer(auto_error=False, description="an API key; `moodq gateway key new` makes one")


async def admit(
    request: Request,
    services: Annotated[Services, Depends(services_of)],
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
) -> str:
    """The name of the caller's key. Raises ``BadInput`` (unauthorized) and ``RateLimited``.

    Without keys the gateway listens on loopback only, and takes only requests that name this machine: a page
    of somebody else's, whose name was made to lead here, gets nothing.
    """
    if not services.keys.required:
        if not _names_this_machine(request.headers.get("host", "")):
            raise BadInput(
                "without API keys only requests to localhost are taken; set MOODQ_GATEWAY_KEYS",
                code=ErrorCode.UNAUTHORIZED,
            )
        request.scope[KEY_SCOPE] = NOBODY
        return NOBODY
    name = services.keys.name_of(credentials.credentials) if credentials is not None else None
    if name is None:
        raise BadInput(
            "send a valid API key as Authorization: Bearer KEY; `moodq gateway key new` makes one",
            code=ErrorCode.UNAUTHORIZED,
        )
    request.scope[KEY_SCOPE] = name
    await services.rates.check(name)
    return name


def _names_this_machine(host: str) -> bool:
    """Whether a Host header does; its port may be any."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return is_loopback(name.lower())


Caller = Annotated[str, Depends(admit)]
