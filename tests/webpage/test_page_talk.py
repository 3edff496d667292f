"""The page's first view: a verdict at once, the reply word by word, and what is said when that cannot be."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from moodq_producer.gateway.keys import hash_of, new_key
from webpage.browsing import PATIENCE_MS, OpenPage
from webpage.serving import Serving

expect.set_options(timeout=PATIENCE_MS)

GOOD = "今天的实验终于成功了，太棒了！"
BAD = "这个订单又延迟了，太差了，我真的很生气"


def say(page: Page, text: str) -> None:
    # The chips are there once the service has told its tasks.
    expect(page.locator("#talk-tasks .chip").first).to_be_visible()
    page.fill("#message", text)
    page.press("#message", "Enter")


@pytest.mark.parametrize(
    ("locale", "text", "verdict"),
    [
        ("zh-CN", GOOD, "😊 LLM 情感判断: 正面 90%"),
        ("zh-CN", BAD, "😟 LLM 情感判断: 负面 90%"),
        ("en-GB", "The experiment worked at last, great!", "😊 LLM verdict: positive 90%"),
        ("en-GB", "My order is late again, this is terrible.", "😟 LLM verdict: negative 90%"),
    ],
)
def test_a_message_gets_its_verdict_and_its_reply(
    serving: Serving, open_page: OpenPage, locale: str, text: str, verdict: str
) -> None:
    page = open_page(serving, locale=locale)
    say(page, text)
    expect(page.locator(".verdict-line")).to_have_text(verdict)
    expect(page.locator(".turn .bubble")).to_have_text(text)
    expect(page.locator(".turn .prose")).to_have_text(f"echo: {text}")
    expect(page.locator("#message")).to_have_value("")


def test_the_verdict_is_there_while_the_reply_is_still_being_written(
    serving: Serving, open_page: OpenPage
) -> None:
    page = open_page(serving)
    say(page, "great [[words 30]] [[step 0.15]]")
    expect(page.locator(".verdict-line")).to_have_text("😊 LLM verdict: positive 90%")
    reply = page.locator(".turn .prose.writing")
    expect(reply).to_have_text(re.compile("^echo: great"))
    assert page.locator(".turn[data-phase=writing]").count() == 1
    early = reply.inner_text()
    expect(page.locator(".turn[data-phase=done]")).to_be_visible()
    whole = page.locator(".turn .prose").inner_text()
    assert whole.startswith(early.strip())
    assert len(whole) > len(early)


def test_a_screen_reader_is_told_the_verdict_and_then_the_whole_reply_once(
    serving: Serving, open_page: OpenPage
) -> None:
    page = open_page(serving)
    say(page, "great [[words 20]] [[step 0.1]]")
    spoken = page.locator("#spoken")
    expect(spoken).to_have_attribute("aria-live", "polite")
    expect(spoken).to_have_text("😊 LLM verdict: positive 90%")
    expect(spoken).to_have_text(re.compile("^Reply: echo: great"))


def test_the_language_can_be_changed_under_way_and_is_remembered(
    serving: Serving, open_page: OpenPage
) -> None:
    page = open_page(serving, locale="en-GB")
    say(page, GOOD)
    expect(page.locator(".verdict-line")).to_have_text("😊 LLM verdict: positive 90%")
    page.click("#language")
    expect(page.locator(".verdict-line")).to_have_text("😊 LLM 情感判断: 正面 90%")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    expect(page).to_have_title("moodq · 对话")
    page.reload()
    expect(page.locator(".tabs a").first).to_have_text("对话")


def test_a_running_reply_can_be_stopped(serving: Serving, open_page: OpenPage) -> None:
    page = open_page(serving)
    say(page, "great [[words 70]] [[step 0.3]]")
    expect(page.locator(".prose.writing")).to_have_text(re.compile("echo:"))
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".turn .state")).to_contain_text("Stopped.")
    deadline = time.monotonic() + 20  # the page says so at once, the gateway is told meanwhile
    while not (ids := list(serving.redis.scan_iter("moodq:result:*"))):
        assert time.monotonic() < deadline, "not cancelled"
        page.wait_for_timeout(50)
    assert b'"cancelled"' in serving.redis.get(ids[0])


def test_text_is_shown_as_text_whatever_it_holds(serving: Serving, open_page: OpenPage) -> None:
    page = open_page(serving)
    text = '<img src=x onerror="document.title=1"><script>document.title=2</script> & **bold**'
    say(page, text)
    expect(page.locator(".turn .bubble")).to_have_text(text)
    expect(page.locator(".turn .prose")).to_have_text(f"echo: {text}")
    assert page.locator(".turn img, .turn script").count() == 0
    expect(page).to_have_title("moodq · Talk")


def test_other_tasks_can_be_chosen_and_topics_ask_for_their_labels(
    serving: Serving, open_page: OpenPage
) -> None:
    page = open_page(serving)
    page.get_by_role("button", name="More").click()
    page.get_by_role("button", name="Reply", exact=True).click()
    page.get_by_role("button", name="Topic").click()
    say(page, "The refund is late.")
    expect(page.locator("#message-error")).to_contain_text("2 to 32 labels")
    page.get_by_label("Labels to choose among").fill("delivery, refund")
    page.press("#message", "Enter")
    expect(page.locator(".verdict-line")).to_have_text(
        ["😊 LLM verdict: positive 90%", "🏷️ LLM Topic: refund 90%"]
    )
    expect(page.locator(".turn .prose")).to_have_count(0)


def test_without_a_worker_the_page_says_so_and_goes_on_when_one_starts(
    own_serving: Serving, open_page: OpenPage
) -> None:
    own_serving.start_gateway()
    page = open_page(own_serving)
    expect(page.locator("#banner")).to_contain_text("No worker is running")
    say(page, GOOD)
    expect(page.locator(".turn .notice")).to_have_text("Still in the queue: no worker is running.")
    own_serving.start_worker()
    expect(page.locator(".verdict-line")).to_have_text("😊 LLM verdict: positive 90%")
    expect(page.locator("#banner")).to_be_empty()


def test_a_full_queue_is_told_and_the_message_can_be_sent_again(
    own_serving: Serving, open_page: OpenPage
) -> None:
    own_serving.start_gateway(max_queue_length="1")
    page = open_page(own_serving, locale="zh-CN")
    say(page, GOOD)
    expect(page.locator(".turn")).to_have_count(1)
    say(page, BAD)
    expect(page.locator(".turn .notice[role=alert]")).to_have_text("队列已满，请稍后再试。")
    own_serving.start_worker()
    expect(page.locator(".turn[data-phase=done]")).to_have_count(1)
    page.get_by_role("button", name="重试").click()
    expect(page.locator(".verdict-line").last).to_have_text("😟 LLM 情感判断: 负面 90%")


def test_a_text_that_is_too_long_comes_back_to_be_shortened(
    own_serving: Serving, open_page: OpenPage
) -> None:
    own_serving.start_gateway(max_text_chars="40")
    page = open_page(own_serving)
    say(page, "long " * 20)
    expect(page.locator("#message-error")).to_have_text("That is too long: at most 40 characters.")
    expect(page.locator("#message")).to_have_value("long " * 20)
    expect(page.locator("#message")).to_be_focused()
    expect(page.locator(".turn")).to_have_count(0)


def test_an_empty_message_is_not_sent(serving: Serving, open_page: OpenPage) -> None:
    page = open_page(serving)
    say(page, "   ")
    expect(page.locator("#message-error")).to_have_text("Write something first.")
    expect(page.locator(".turn")).to_have_count(0)


def test_a_broken_stream_is_taken_up_where_it_broke(own_serving: Serving, open_page: OpenPage) -> None:
    own_serving.start_worker()
    own_serving.start_gateway()
    page = open_page(own_serving)
    say(page, "great [[words 60]] [[step 0.2]]")
    expect(page.locator(".prose.writing")).to_have_text(re.compile("echo: great"))
    own_serving.stop_gateway()
    expect(page.locator(".turn .notice")).to_contain_text("Connection lost")
    expect(page.locator("#banner")).to_contain_text("Connection lost")
    seen = page.locator(".prose.writing").inner_text()
    own_serving.start_gateway()
    expect(page.locator(".turn[data-phase=done]")).to_be_visible()
    whole = page.locator(".turn .prose").inner_text()
    assert whole.startswith(seen.strip())
    assert whole.count("echo:") == 1
    expect(page.locator("#banner")).to_be_empty()


def test_a_service_with_keys_asks_for_one(own_serving: Serving, open_page: OpenPage) -> None:
    key = new_key()
    own_serving.start_worker()
    own_serving.start_gateway(gateway_keys=f"desk={hash_of(key)}")
    page = open_page(own_serving)
    expect(page.locator("#banner")).to_contain_text("needs an API key")
    page.get_by_role("button", name="Enter the key").click()
    page.get_by_label("Key", exact=True).fill("not the key")
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("#key-error")).to_have_text("That key was not accepted.")
    page.get_by_label("Key", exact=True).fill(key)
    page.get_by_role("button", name="Use it").click()
    expect(page.locator("#banner")).to_be_empty()
    say(page, GOOD)
    expect(page.locator(".verdict-line")).to_have_text("😊 LLM verdict: positive 90%")
    assert page.evaluate("Object.values(localStorage)") == []


ROUTES = """
[[routes]]
when = "sentiment is negative"
route = "human"
reply = false
"""


def test_a_message_goes_to_a_person_whose_answers_are_shown(
    own_serving: Serving, open_page: OpenPage, tmp_path: Path
) -> None:
    rules = tmp_path / "tasks.toml"
    rules.write_text(ROUTES, "utf-8")
    own_serving.start_worker(tasks_file=str(rules))
    own_serving.start_gateway(tasks_file=str(rules))
    page = open_page(own_serving)
    say(page, BAD)
    expect(page.locator("#person")).to_contain_text("Handed over: a person will take this conversation")
    expect(page.locator(".turn .foot")).to_contain_text("a person answers")
    expect(page.locator(".turn .prose")).to_have_count(0)
    conversation = page.evaluate("sessionStorage.getItem('moodq.conversation')")
    path = f"{own_serving.url}v1/conversations/{conversation}"
    assert page.request.post(f"{path}/takeover", data={"by": "Ann"}).ok
    expect(page.locator("#person")).to_contain_text("Ann has taken over")
    assert page.request.post(f"{path}/turns", data={"text": "I see to it.", "by": "Ann"}).ok
    expect(page.locator(".turn .prose")).to_have_text("I see to it.")
    expect(page.locator(".turn .who")).to_have_text("A person Ann")
    assert page.request.delete(f"{path}/takeover").ok
    expect(page.locator("#person")).to_be_hidden()
    say(page, GOOD)
    reply = f"echo: {GOOD} (after: {BAD} | I see to it.)"
    expect(page.locator(".turn .prose").last).to_have_text(reply)
    page.reload()
    expect(page.locator(".turn .bubble")).to_have_text([BAD, GOOD])
    expect(page.locator(".turn .prose")).to_have_text(["I see to it.", reply])
