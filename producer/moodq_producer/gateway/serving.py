"""Runs the gateway: one process, one event loop, until SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from moodq_config.errors import ConfigError, ErrorCode, Unavailable
from moodq_config.settings import Settings
from moodq_config.settings_remote import is_loopback
from moodq_producer.gateway.app import create_app
from moodq_producer.gateway.keys import Keys

log = logging.getLogger(__name__)

#: Seconds that answers under way get at the end.
GRACE_S = 10
#: Connections that wait to be accepted.
BACKLOG = 2_048


class GatewayServer(uvicorn.Server):
    """Uvicorn's server, which at the signal lets waits and streams end first."""

    def __init__(self, config: uvicorn.Config, app: FastAPI) -> None:
        super().__init__(config)
        self._app = app

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not uvicorn's own: it would raise the signal once more when all has ended well.
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.state.services.hurry()
        await super().shutdown(sockets)


def run(settings: Settings, say: Callable[[str], None]) -> int:
    """Serve until told to stop; returns the exit code. Raises ``ConfigError``, ``Unavailable``."""
    server, listening = make_server(settings)
    with listening:
        say(f"gateway: {url_of(settings, listening)}")
        server.run([listening])
    return 0 if server.started else 1


def make_server(settings: Settings) -> tuple[GatewayServer, socket.socket]:
    """The server, and the socket it is going to serve, bound. Raises ``ConfigError``, ``Unavailable``."""
    keys = Keys(settings)
    if not keys.required and not is_loopback(settings.gateway_host):
        raise ConfigError(
            f"MOODQ_GATEWAY_HOST {settings.gateway_host} can be reached from other machines, and there are "
            "no API keys: make one with `moodq gateway key new NAME`, put its line into MOODQ_GATEWAY_KEYS "
            "or the file MOODQ_GATEWAY_KEYS_FILE, or listen on 127.0.0.1"
        )
    app = create_app(settings)
    config = uvicorn.Config(
        app,
        log_config=None,  # the process has its log already
        access_log=False,  # edge writes a line for each request
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=GRACE_S,
        backlog=BACKLOG,
    )
    return GatewayServer(config, app), _bound(settings)


def url_of(settings: Settings, listening: socket.socket) -> str:
    """Where to reach it."""
    host = f"[{settings.gateway_host}]" if ":" in settings.gateway_host else settings.gateway_host
    return f"http://{host}:{listening.getsockname()[1]}"


def _bound(settings: Settings) -> socket.socket:
    host, port = settings.gateway_host, settings.gateway_port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise Unavailable(
            f"MOODQ_GATEWAY_PORT: cannot listen on {host}:{port} ({error.strerror or error}); stop what "
            "uses it, choose another port, or 0 for any free one",
            code=ErrorCode.PORT_TAKEN,
        ) from error
