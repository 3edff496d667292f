"""The page's frame: the live view, routing, themes, keyboard, narrow screens, accessibility, the policy."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from webpage.browsing import PATIENCE_MS, OpenPage
from webpage.serving import Serving

expect.set_options(timeout=PATIENCE_MS)

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "producer/moodq_producer/gateway/page"
VIEWS = ("#talk", "#lines", "#live")


def fill(page: Page, view: str) -> None:
    """Something in every part of the view."""
    if view == "#talk":
        expect(page.locator("#talk-tasks .chip").first).to_be_visible()
        page.fill("#message", "太差了 bad")
        page.press("#message", "Enter")
        expect(page.locator(".turn[data-phase=done]")).to_be_visible()
    elif view == "#lines":
        expect(page.locator("#lines-tasks .chip").first).to_be_visible()
        page.click("#lines-sample")
        page.click("#lines-start")
        expect(page.locator("#charts figure.shares")).to_be_visible()
        expect(page.locator("#lines-start")).to_be_visible()
    else:
        expect(page.locator(".figure-value").first).to_have_text("1")


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["zh-CN", "en-GB"])
@pytest.mark.parametrize("view", VIEWS)
def test_axe_finds_nothing_to_complain_of(
    serving: Serving, open_page: OpenPage, view: str, locale: str, theme: str
) -> None:
    page = open_page(serving, view, locale=locale, color_scheme=theme, reduced_motion="reduce")
    fill(page, view)
    found = Axe().run(page, options={"resultTypes": ["violations"]})
    assert found.violations_count == 0, found.generate_report()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("locale", ["zh-CN", "en-GB"])
def test_nothing_sticks_out_of_a_phone_of_360_pixels(
    serving: Serving, open_page: OpenPage, locale: str, view: str
) -> None:
    page = open_page(serving, view, locale=locale, viewport={"width": 360, "height": 740})
    fill(page, view)
    assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_live_view_shows_queues_and_workers_and_rests_while_hidden(
    own_serving: Serving, open_page: OpenPage
) -> None:
    own_serving.start_gateway()
    page = open_page(own_serving, "#live")
    expect(page.locator(".figure-value").first).to_have_text("0")
    for text in ("one", "two"):
        page.request.post(own_serving.url + "v1/jobs", data={"text": text, "tasks": ["sentiment"]})
    expect(page.locator(".queue").first).to_contain_text("Interactive")
    expect(page.locator(".queue-length").first).to_have_text("2")
    own_serving.start_worker()
    expect(page.locator(".queue-length").first).to_have_text("empty")
    expect(page.locator(".figure-value").first).to_have_text("1")
    asked: list[str] = []
    page.evaluate(
        "Object.defineProperty(document, 'hidden', { value: true, configurable: true });"
        "document.dispatchEvent(new Event('visibilitychange'))"
    )
    page.wait_for_timeout(300)
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(4_500)
    assert asked == []
    page.evaluate("delete document.hidden; document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_timeout(500)
    assert asked != []


def test_the_theme_follows_the_system_until_one_is_chosen_and_is_remembered(
    serving: Serving, open_page: OpenPage
) -> None:
    page = open_page(serving, color_scheme="dark")
    colour = "getComputedStyle(document.documentElement).backgroundColor"
    assert page.evaluate(colour) == "rgb(18, 19, 24)"
    page.click("#theme")
    expect(page.locator("#theme")).to_have_accessible_name("Theme: light")
    assert page.evaluate(colour) == "rgb(246, 245, 242)"
    page.reload()
    assert page.evaluate(colour) == "rgb(246, 245, 242)"


def test_everything_can_be_reached_and_done_with_the_keyboard(serving: Serving, open_page: OpenPage) -> None:
    page = open_page(serving)
    expect(page.locator("#talk-tasks .chip").first).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    reached = []
    for _ in range(20):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.className"))
        if reached[-1] == "message":
            break
    assert {"new-conversation", "example", "chip", "message"} <= set(reached)
    page.keyboard.type("great")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("day")
    page.keyboard.press("Enter")
    expect(page.locator(".turn .bubble")).to_have_text("great\nday")
    expect(page.locator("#message")).to_be_focused()


def test_the_views_have_addresses_and_going_to_one_moves_the_focus(
    serving: Serving, open_page: OpenPage
) -> None:
    page = open_page(serving, "#live")
    expect(page.locator("#view-live")).to_be_visible()
    page.get_by_role("link", name="Many lines").click()
    expect(page.locator("#view-lines")).to_be_visible()
    expect(page.locator("#view-live")).to_be_hidden()
    expect(page.locator("#main")).to_be_focused()
    expect(page).to_have_title("moodq · Many lines")
    page.go_back()
    expect(page.locator("#view-live")).to_be_visible()


def test_a_script_that_is_not_a_file_of_the_page_does_not_run(serving: Serving, open_page: OpenPage) -> None:
    page = open_page(serving, watched=False)
    blocked = page.evaluate(
        """async () => {
          const told = [];
          const attempt = async (name, run) => { try { await run(); } catch { told.push(name); } };
          document.addEventListener("securitypolicyviolation", (hit) => told.push(hit.effectiveDirective));
          await attempt("handler", () => document.body.setAttribute("onclick", "document.title = 'ran'"));
          await attempt("markup", () => { document.body.innerHTML = "<p>gone</p>"; });
          await attempt("fetch", () => fetch("https://example.org/"));
          document.body.setAttribute("style", "display: none");
          await new Promise((resolve) => setTimeout(resolve, 100));
          return told;
        }"""
    )
    assert {"handler", "markup", "fetch", "connect-src", "style-src-attr"} <= set(blocked)
    expect(page.locator("#message")).to_be_visible()


def test_the_page_has_a_sentence_in_both_languages_for_all_it_says(
    serving: Serving, open_page: OpenPage
) -> None:
    page = open_page(serving)
    words = page.evaluate("import('/static/js/words.js').then(({ WORDS }) => WORDS)")
    assert all(set(said) == {"zh", "en"} for said in words.values())
    used = page.evaluate(
        """[...document.querySelectorAll("[data-i18n], [data-i18n-label], [data-i18n-placeholder]")].flatMap(
          ({ dataset }) => [dataset.i18n, dataset.i18nLabel, dataset.i18nPlaceholder].filter(Boolean))"""
    )
    assert set(used) <= set(words)


def test_no_file_of_the_page_makes_markup_of_data() -> None:
    for script in PAGE.rglob("*.js"):
        text = script.read_text("utf-8")
        for word in (
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            "new Function",
        ):
            assert word not in text, f"{word} in {script.name}"


def test_the_wheel_carries_the_page(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = set(wheel.namelist())
    files = {
        f"moodq_producer/gateway/page/{path.relative_to(PAGE)}" for path in PAGE.rglob("*") if path.is_file()
    }
    assert "moodq_producer/gateway/page/index.html" in files
    assert files <= packed
