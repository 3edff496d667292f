"""``python -m tests.screens``, from the repository's root: the pictures of docs/page.md, of the real model.

A server, a gateway and a worker are started for it and ended again. Needs Chromium and fonts with Chinese and
emoji (Debian: chromium, fonts-noto-cjk, fonts-noto-color-emoji).
"""

from __future__ import annotations

import io
import sys
import tempfile
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import click
from PIL import Image
from playwright.sync_api import Browser, Page, expect

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from moodq_config.settings import load_settings  # noqa: E402
from moodq_worker.model_store import resolve  # noqa: E402
from webpage.browsing import chromium, find_chromium  # noqa: E402
from webpage.serving import Serving  # noqa: E402

IMAGES = ROOT / "docs/images"
#: Milliseconds; the first pass of a task builds its prefix.
PATIENCE_MS = 90_000
#: Texts in the queue while the live view is taken, in jobs of so many, and seconds of it to show.
LOAD, JOB, LIVE_S = 3_000, 20, 24

TALK = {
    "zh": ("今天的实验终于成功了，太棒了！", "这个订单又延迟了，我真的很生气"),
    "en": (
        "The experiment finally worked today, this is great!",
        "My order is late again and I am really angry.",
    ),
}


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--engine", type=click.Choice(["hf", "fake"]), default="hf", help="fake: to try this program.")
@click.option("--out", type=click.Path(path_type=Path), default=IMAGES, help="Folder for the pictures.")
def main(engine: str, out: Path) -> None:
    """Take the pictures of the page again."""
    program = find_chromium()
    if program is None:
        raise click.ClickException("no Chromium is installed; install it with: apt-get install chromium")
    model = {"model": str(resolve(load_settings(), progress=click.echo).path)} if engine == "hf" else {}
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, chromium(program) as browser:
        serving = Serving(Path(folder), engine=engine, **model)
        try:
            serving.start_worker()
            serving.start_gateway()
            warm_up(browser, serving)
            for name, picture in take(browser, serving):
                size = save(out / name, picture)
                click.echo(f"{out / name}  {size // 1024} KiB")
        finally:
            serving.close()


def warm_up(browser: Browser, serving: Serving) -> None:
    """The prefixes of the tasks, in both languages, as in a service that has run for a minute."""
    page = browser.new_page()
    for text in ("一切都好", "all is well"):
        item = {"text": text, "tasks": ["sentiment", "emotion", "reply"]}
        page.request.post(serving.url + "v1/analyze", data=item, timeout=PATIENCE_MS)
    page.close()


def take(browser: Browser, serving: Serving) -> Any:
    """Pairs of a file's name and its PNG."""
    for language, dark in (("zh", False), ("en", True)):
        page = opened(browser, serving, "", language, dark)
        talk(page, language)
        yield f"talk-{language}{'-dark' * dark}.png", page.screenshot()
    phone = opened(browser, serving, "", "zh", False, width=360, height=760, scale=1.5)
    talk(phone, "zh", last_only=True)
    yield "phone-zh.png", phone.screenshot()
    page = opened(browser, serving, "#lines", "en", False, height=900)
    lines(page)
    yield "lines-en.png", page.screenshot()
    page = opened(browser, serving, "#live", "zh", True, height=640)
    load(page, serving)
    expect(page.locator(".figure-value").nth(2)).not_to_have_text("0", timeout=PATIENCE_MS)
    page.wait_for_timeout(1_000 * LIVE_S)
    yield "live-zh-dark.png", page.screenshot()


def opened(
    browser: Browser, serving: Serving, view: str, language: str, dark: bool, *,
    width: int = 1_180, height: int = 850, scale: float = 1.0,
) -> Page:  # fmt: skip
    page = browser.new_page(
        locale={"zh": "zh-CN", "en": "en-GB"}[language],
        color_scheme="dark" if dark else "light",
        reduced_motion="reduce",
        viewport={"width": width, "height": height},
        device_scale_factor=scale,
    )
    page.set_default_timeout(PATIENCE_MS)
    page.goto(serving.url + view)
    return page


def talk(page: Page, language: str, last_only: bool = False) -> None:
    expect(page.locator("#talk-tasks .chip").first).to_be_visible()
    for number, text in enumerate(TALK[language][-1:] if last_only else TALK[language], 1):
        page.fill("#message", text)
        page.press("#message", "Enter")
        expect(page.locator(".turn[data-phase=done]")).to_have_count(number, timeout=PATIENCE_MS)
        click.echo(
            "  " + " | ".join(page.locator(".turn").last.locator(".verdict-line, .prose").all_inner_texts())
        )
    page.evaluate("document.activeElement.blur()")


def lines(page: Page) -> None:
    """The English messages of `moodq demo`."""
    shipped = resources.files("moodq_worker").joinpath("demo_messages.toml").read_text("utf-8")
    texts = [message["text"] for message in tomllib.loads(shipped)["messages"]]
    expect(page.locator("#lines-tasks .chip").first).to_be_visible()
    page.locator("#lines-tasks").get_by_role("button", name="Emotion").click()
    page.fill("#pasted", "\n".join(text for text in texts if text.isascii()))
    page.click("#lines-start")
    expect(page.locator("#lines-start")).to_be_visible(timeout=PATIENCE_MS)
    page.evaluate("document.activeElement.blur()")
    page.evaluate("document.getElementById('lines-run').scrollIntoView()")


def load(page: Page, serving: Serving) -> None:
    """Fills the bulk queue with texts that no cache knows."""
    texts = [text for both in TALK.values() for text in both]
    for start in range(0, LOAD, JOB):
        items = [
            {"text": f"{texts[n % len(texts)]} {n}", "tasks": ["sentiment"]}
            for n in range(start, start + JOB)
        ]
        page.request.post(serving.url + "v1/batch", data={"items": items, "queue": "bulk"})


def save(path: Path, png: bytes) -> int:
    """The picture packed as small as PNG goes; returns its bytes."""
    Image.open(io.BytesIO(png)).convert("RGB").save(path, optimize=True)
    return path.stat().st_size


if __name__ == "__main__":
    main()
