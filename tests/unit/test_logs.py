"""What a log line may hold: one line a record, no secret, no text unless asked."""

from __future__ import annotations

import io
import logging

import pytest
from redis.exceptions import ResponseError

from moodq_config.logs import CONTINUED, SafeFormatter
from moodq_config.printable import printable, printable_json
from moodq_config.redis_url import secrets_in


def logged(formatter: SafeFormatter, message: str, *args: object, error: Exception | None = None) -> str:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    log = logging.Logger("test")
    log.addHandler(handler)
    if error is None:
        log.warning(message, *args)
    else:
        try:
            raise error
        except type(error):
            log.error(message, *args, exc_info=True)
    return stream.getvalue()


@pytest.mark.parametrize(
    "hostile",
    [
        "a\n2026-01-01 00:00:00,000 CRITICAL moodq: all is lost",
        "a\r\x1b[2Kgone",
        "a\x9b31mred",
        "a\u202egnp.exe",
        "a\u2066b\u2069",
        "a\u2028b\u2029c",
        "a\x00b\x7f\x85c",
        "a\ufeffb\u061cc\U000e0041",
        "a\ud800b",
    ],
)
def test_whatever_is_logged_one_record_is_one_line_without_control_characters(hostile: str) -> None:
    line = logged(SafeFormatter(), "item %s failed", hostile)
    assert line.count("\n") == 1
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    line.encode("utf-8")


def test_a_traceback_cannot_be_taken_for_records_and_keeps_its_words_to_itself() -> None:
    forged = "my text\n2026-01-01 00:00:00,000 CRITICAL moodq: forged"
    found = logged(SafeFormatter(), "failed", error=RuntimeError(forged)).splitlines()
    assert len(found) > 2
    assert all(line.startswith(CONTINUED) for line in found[1:])
    assert "RuntimeError" in found[-1]
    assert not any("my text" in line for line in found)
    told = logged(SafeFormatter(texts=True), "failed", error=RuntimeError(forged)).splitlines()
    assert "my text\\n2026" in told[-1]
    assert told[-1].startswith(CONTINUED)


def test_what_redis_quotes_of_a_command_is_left_out() -> None:
    error = ResponseError("unknown command 'XADD', with args beginning with: 'k' 'my text'")
    assert "my text" not in logged(SafeFormatter(), "no: %s", error)
    assert "my text" not in logged(SafeFormatter(), "no", error=error)
    assert "unknown command" in logged(SafeFormatter(), "no: %s", error)


@pytest.mark.parametrize(
    "url", ["redis://user:s3cr%2Ft@host/0", "rediss://:s3cr/t@host:1/2", "unix:///s?password=s3cr/t"]
)
def test_the_password_of_the_settings_is_masked_however_it_is_written(url: str) -> None:
    formatter = SafeFormatter(secrets_in(url))
    for text in (url, "AUTH failed for s3cr/t", "at redis://other:s3cr%2Ft@elsewhere:1 and more"):
        line = logged(formatter, "%s", text)
        assert "s3cr" not in line
        assert "***" in line
    assert "other-pass" not in logged(SafeFormatter(), "at %s", "rediss://x:other-pass@h/0")


def test_a_text_on_a_screen_is_one_line_and_json_stays_the_same_json() -> None:
    assert printable("你好\n世界\t👩\u200d💻") == "你好 世界 👩\u200d💻"
    assert printable("\x1b]0;t\x07") == "\\x1b]0;t\\x07"
    assert printable_json('{"a":"\u202e\U000e0041"}') == '{"a":"\\u202e\\udb40\\udc41"}'
