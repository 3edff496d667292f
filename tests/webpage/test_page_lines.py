"""The page's second view: many lines in; a table, a chart and files out. And what it reads from files."""

from __future__ import annotations

import csv
import json
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Request, expect

from webpage.browsing import PATIENCE_MS, OpenPage
from webpage.serving import Serving

expect.set_options(timeout=PATIENCE_MS)


def ended(page: Page) -> None:
    expect(page.locator("#lines-start")).to_be_visible()
    expect(page.locator("#progress-text")).to_contain_text("Done")


def test_pasted_lines_become_a_table_and_a_chart(serving: Serving, open_page: OpenPage) -> None:
    page = open_page(serving, "#lines")
    expect(page.locator("#lines-tasks .chip").first).to_be_visible()
    page.fill("#pasted", "味道很好\n\n太差了\nbad service\n")
    expect(page.locator("#lines-read")).to_have_text("3 texts")
    page.click("#lines-start")
    ended(page)
    expect(page.locator("tbody tr")).to_have_count(3)
    expect(page.locator("tbody tr").nth(1)).to_contain_text("太差了")
    expect(page.locator("tbody tr").nth(1).locator(".tag")).to_have_text("negative 90%")
    expect(page.locator("#charts figure.shares .share")).to_have_text(["negative267%", "positive133%"])
    page.locator("#charts figure.shares .share").last.click()
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("tbody tr")).to_contain_text("味道很好")


def test_a_csv_file_keeps_its_columns_in_the_downloads(
    serving: Serving, open_page: OpenPage, tmp_path: Path
) -> None:
    given = [["order", "review"], ["=7", 'good, "really"'], ["8", "bad\nin two lines"], ["9", "差"]]
    file = tmp_path / "reviews.csv"
    with file.open("w", newline="", encoding="utf-8-sig") as output:
        csv.writer(output).writerows(given)
    page = open_page(serving, "#lines")
    expect(page.locator("#lines-tasks .chip").first).to_be_visible()
    page.set_input_files("#file", file)
    expect(page.locator("#lines-read")).to_have_text("reviews.csv · 3 texts")
    expect(page.locator("#column")).to_have_value("review")
    page.click("#lines-start")
    ended(page)
    with page.expect_download() as csv_saved:
        page.click("#download-csv")
    with Path(csv_saved.value.path()).open(newline="", encoding="utf-8-sig") as saved:
        rows = list(csv.DictReader(saved))
    assert [row["review"] for row in rows] == [review for _, review in given[1:]]
    assert [row["sentiment"] for row in rows] == ["positive", "negative", "negative"]
    assert [row["sentiment_probability"] for row in rows] == ["0.9"] * 3
    assert rows[0]["order"] == "'=7", "a spreadsheet would run it"
    with page.expect_download() as lines_saved:
        page.click("#download-jsonl")
    lines = Path(lines_saved.value.path()).read_text("utf-8").splitlines()
    first = json.loads(lines[0])
    assert first["row"] == {"order": "=7", "review": 'good, "really"'}
    assert first["results"]["sentiment"]["label"] == "positive"
    assert len(lines) == 3


def test_more_lines_than_a_page_are_sent_in_chunks_and_shown_by_pages(
    serving: Serving, open_page: OpenPage
) -> None:
    page = open_page(serving, "#lines")
    expect(page.locator("#lines-tasks .chip").first).to_be_visible()
    sent: list[Request] = []
    page.on("request", lambda request: sent.append(request))  # Playwright marks its handlers
    page.fill("#pasted", "\n".join(f"{'bad' if n % 4 == 0 else 'fine'} {n}" for n in range(450)))
    page.click("#lines-start")
    ended(page)
    chunks: list[Any] = [request.post_data_json for request in sent if request.url.endswith("/v1/batch")]
    assert [len(chunk["items"]) for chunk in chunks] == [200, 200, 50]
    assert {chunk["queue"] for chunk in chunks} == {"bulk"}
    expect(page.locator("tbody tr")).to_have_count(50)
    page.get_by_role("button", name="Next").click()
    expect(page.locator("tbody tr").first).to_contain_text("fine 50")
    expect(page.locator("#pages .quiet")).to_have_text("51–100 of 450")
    expect(page.locator("#charts figure.shares .share").last).to_have_text("negative11325%")
    page.get_by_role("button", name="Sentiment", exact=True).last.click()
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("Sentiment")
    page.get_by_role("button", name="Previous").click()
    expect(page.locator("tbody tr").first.locator(".tag")).to_have_text("negative 90%")


def test_lines_that_are_refused_are_told_beside_the_others(own_serving: Serving, open_page: OpenPage) -> None:
    own_serving.start_worker()
    own_serving.start_gateway(max_text_chars="40")
    page = open_page(own_serving, "#lines")
    expect(page.locator("#lines-tasks .chip").first).to_be_visible()
    page.fill("#pasted", "fine\n" + "x" * 50 + "\nbad")
    page.click("#lines-start")
    expect(page.locator("#progress-text")).to_have_text("Done: 3 texts, 1 failed")
    expect(page.locator("tbody tr").nth(1).locator(".tag")).to_contain_text("too long")
    page.select_option("#filter", label="failed (1)")
    expect(page.locator("tbody tr")).to_have_count(1)


def test_a_full_queue_is_waited_out(own_serving: Serving, open_page: OpenPage) -> None:
    own_serving.start_gateway(max_queue_length="1")
    page = open_page(own_serving, "#lines")
    expect(page.locator("#lines-tasks .chip").first).to_be_visible()
    page.fill("#pasted", "\n".join(f"fine {n}" for n in range(450)))
    page.click("#lines-start")
    expect(page.locator("#progress-notice")).to_contain_text("queue is full")
    own_serving.start_worker()
    expect(page.locator("#progress-text")).to_have_text("Done: 450 texts")
    expect(page.locator("#progress-notice")).to_be_hidden()


def test_stopping_takes_back_what_waits(own_serving: Serving, open_page: OpenPage) -> None:
    own_serving.start_gateway()
    page = open_page(own_serving, "#lines")
    expect(page.locator("#lines-tasks .chip").first).to_be_visible()
    page.fill("#pasted", "one\ntwo")
    page.click("#lines-start")
    expect(page.locator("#progress-notice")).to_contain_text("No worker is running")
    page.click("#lines-stop")
    expect(page.locator("#progress-text")).to_have_text("Stopped: 0 of 2 done")
    # It says so at once, and takes them back meanwhile.
    deadline = time.monotonic() + PATIENCE_MS / 1_000
    while len(found := list(own_serving.redis.scan_iter("moodq:result:*"))) < 2:
        assert time.monotonic() < deadline
        page.wait_for_timeout(50)
    assert all(b'"cancelled"' in result for result in own_serving.redis.mget(found))


READ = """async ([content, name]) => {
  const { readTexts, textsOf } = await import("/static/js/reading.js");
  try {
    const read = readTexts(content, name);
    return { column: read.column, texts: textsOf(read).map(({ line, text }) => [line, text]) };
  } catch (error) {
    return { refused: error.sentence };
  }
}"""


def test_what_is_read_from_lines_tables_and_objects(serving: Serving, open_page: OpenPage) -> None:
    page = open_page(serving)

    def read(content: str, name: str = "") -> object:
        return page.evaluate(READ, [content, name])

    assert read("a\r\n\r\n b, c \n") == {"column": "text", "texts": [[1, "a"], [2, " b, c "]]}
    table = 'id;评论\n1;"他说""好"";\n第二行"\n\n2;差\n'
    assert read(table, "x.csv") == {"column": "评论", "texts": [[1, '他说"好";\n第二行'], [2, "差"]]}
    assert read("a\tlonger\nx\tthe words\n", "x.tsv") == {"column": "longer", "texts": [[1, "the words"]]}
    objects = '{"id": 1, "text": "one"}\n\n{"text": ""}\n{"text": "two", "more": {"a": 1}}\n'
    assert read(objects) == {"column": "text", "texts": [[1, "one"], [3, "two"]]}
    assert read('{"text": "one"}\nnot json', "x.jsonl") == {"refused": ["lines.broken", {"line": 2}]}


def test_a_file_in_the_encoding_of_chinese_spreadsheets_is_read(
    serving: Serving, open_page: OpenPage, tmp_path: Path
) -> None:
    file = tmp_path / "评论.txt"
    file.write_bytes("味道很好\n太差了\n".encode("gb18030"))
    page = open_page(serving, "#lines", locale="zh-CN")
    page.set_input_files("#file", file)
    expect(page.locator("#lines-read")).to_have_text("评论.txt · 2 条文本")
    expect(page.locator("#pasted")).to_have_value("味道很好\n太差了")
