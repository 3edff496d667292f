"""The page in a real browser, before a real gateway, server and worker (with the fake engine)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request

from webpage.browsing import PATIENCE_MS, OpenPage, chromium, find_chromium
from webpage.serving import Serving


# By module: Playwright's loop would be in the way of asynchronous tests elsewhere.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium; a missing one skips at a desk and fails in CI."""
    program = find_chromium()
    if program is None:
        missing = "no Chromium is installed; install it with: apt-get install chromium"
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    with chromium(program) as running:
        yield running


@pytest.fixture(scope="module")
def shared_serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """Server, gateway and one worker for all tests that change nothing about them."""
    serving = Serving(tmp_path_factory.mktemp("serving"))
    try:
        serving.start_worker()
        serving.start_gateway()
        yield serving
    finally:
        serving.close()


@pytest.fixture
def serving(shared_serving: Serving) -> Serving:
    """Them, with nothing left of the test before."""
    shared_serving.empty()
    return shared_serving


@pytest.fixture
def own_serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server only: the test starts gateway and workers as it wants them."""
    serving = Serving(tmp_path_factory.mktemp("own-serving"))
    try:
        yield serving
    finally:
        serving.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """A function that opens the page of a serving: ``open_page(serving, "#lines", locale="zh-CN")``. Unless
    ``watched`` is false, what the page may never do fails the test: raise, break its content policy, or ask
    anybody else for anything."""
    contexts: list[BrowserContext] = []
    faults: list[str] = []

    def open(
        serving: Serving, view: str = "", *, locale: str = "en-GB", watched: bool = True, **options: Any
    ) -> Page:
        options = {"viewport": {"width": 1180, "height": 820}, **options}
        context = browser.new_context(locale=locale, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        if watched:
            watch(page, serving.url)
        page.goto(serving.url + view)
        return page

    def watch(page: Page, url: str) -> None:
        def heard(line: ConsoleMessage) -> None:
            if "Policy" in line.text:
                faults.append(line.text)

        def asked(request: Request) -> None:
            if not request.url.startswith((url, "blob:")):
                faults.append(f"asked for {request.url}")

        page.on("pageerror", lambda error: faults.append(f"the page raised {error}"))
        page.on("console", heard)
        page.on("request", asked)

    yield open
    for context in contexts:
        context.close()
    assert faults == []
