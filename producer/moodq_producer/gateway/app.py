"""Puts the gateway together: routes, errors, the page, all behind ``edge``."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from moodq_config.errors import MoodqError
from moodq_config.settings import Settings
from moodq_producer.gateway import events, items, live, problems, talks
from moodq_producer.gateway.edge import Edge
from moodq_producer.gateway.metrics import GatewayMetrics
from moodq_producer.gateway.openapi import GatewayApp
from moodq_producer.gateway.services import make_services

#: The page's files: ``index.html``, and what it loads from /static/.
PAGE = Path(__file__).parent / "page"

_INDEX = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>moodq</title>
<h1>moodq</h1>
<p>POST /v1/analyze {"text": "…"} · <a href="/openapi.json">openapi.json</a></p>
</html>
"""

_ABOUT = """One small language model behind a Redis queue: labels with probabilities, and replies.

Errors are problem documents (RFC 9457) with a stable `code`. Each answer names its request in `X-Request-Id`.
"""


def create_app(settings: Settings, page: Path = PAGE) -> FastAPI:
    """The ASGI app. Its services end with its lifespan. Raises ``ConfigError``, ``Unavailable``."""
    metrics = GatewayMetrics()
    services = make_services(settings, metrics)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        services.callbacks.start()
        try:
            yield
        finally:
            await services.close()

    app = GatewayApp(
        title="moodq",
        version=version("moodq"),
        description=_ABOUT,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
        lifespan=lifespan,
        docs_url=None,  # both load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers={
            MoodqError: problems.handle_moodq,
            HTTPException: problems.handle_status,
            RequestValidationError: problems.handle_validation,
        },
    )
    app.state.services = services
    for router in (items.router, events.router, talks.router, live.router, live.health):
        app.include_router(router)
    _serve_page(app, page)
    app.add_middleware(Edge, metrics=metrics)
    return app


def _serve_page(app: FastAPI, page: Path) -> None:
    index = page / "index.html"

    @app.get("/", include_in_schema=False)
    async def root() -> Response:
        return FileResponse(index) if index.is_file() else HTMLResponse(_INDEX)

    if page.is_dir():
        app.mount("/static", StaticFiles(directory=page), name="static")
