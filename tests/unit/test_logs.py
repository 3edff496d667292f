"""What a log line may hold: one line a record, no secret, no text unless asked."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest
from redis.exceptions import ResponseError

from moodq_config.logs import (
    CONTINUED,
    EXTRA,
    JsonFormatter,
    SafeFormatter,
    as_json,
    configure_logs,
    jobs_logged,
)
from moodq_config.printable import printable, printable_json
from moodq_config.redis_url import secrets_in
from moodq_config.settings import load_settings


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


HOSTILE = pytest.mark.parametrize(
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


@HOSTILE
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


def as_object(line: str) -> dict[str, Any]:
    assert line.endswith("\n")
    assert line.count("\n") == 1
    assert line[:-1].isprintable()
    found = json.loads(line)
    assert isinstance(found, dict)
    return found


@HOSTILE
def test_as_json_whatever_is_logged_is_one_line_and_reads_back_as_it_was(hostile: str) -> None:
    line = logged(JsonFormatter(), "item %s failed", hostile)
    assert as_object(line)["message"] == f"item {hostile} failed"
    line.encode("utf-8")


def test_a_json_line_begins_with_what_every_line_has_in_the_names_of_ecs() -> None:
    found = as_object(logged(JsonFormatter(always={"service.name": "moodq-worker"}), "ready: 你好"))
    names = ["@timestamp", "log.level", "message", "ecs.version", "log.logger", "service.name"]
    assert list(found) == names
    assert found["log.level"] == "warning"
    assert found["message"] == "ready: 你好"
    assert found["@timestamp"].endswith("+00:00")


def test_a_json_line_of_an_error_has_its_type_and_traceback_and_its_words_only_if_they_may_be_told() -> None:
    for texts in (False, True):
        line = logged(JsonFormatter(texts=texts), "failed", error=RuntimeError("my text"))
        found = as_object(line)
        assert found["error.type"] == "RuntimeError"
        assert 'File "' in found["error.stack_trace"]
        assert ("my text" in found["error.message"]) == texts
        assert ("my text" in line) == texts
    told = as_object(logged(JsonFormatter(), "failed", error=ConnectionError("refused")))
    assert told["error.message"] == "refused"


def test_secrets_are_masked_in_every_string_of_a_json_line() -> None:
    formatter = JsonFormatter(["s3cr/t"])
    record = logging.makeLogRecord(
        {"msg": "at %s", "args": ("redis://u:other-pass@h/0",), "levelname": "INFO"}
    )
    setattr(record, EXTRA, {"moodq.one": "with s3cr/t in it", "moodq.two": 2})
    line = formatter.format(record)
    assert "s3cr" not in line
    assert "other-pass" not in line
    assert json.loads(line)["moodq.two"] == 2
    error = ConnectionError("AUTH s3cr/t at redis://u:other-pass@h/0")
    line = logged(formatter, "no", error=error)
    assert "s3cr" not in line
    assert "other-pass" not in line


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_auto_writes_for_people_on_a_terminal_and_json_elsewhere() -> None:
    for form, stream, expected in [
        ("auto", Terminal(), False),
        ("auto", io.StringIO(), True),
        ("json", Terminal(), True),
        ("text", io.StringIO(), False),
    ]:
        settings = load_settings(log_format=form)
        assert as_json(settings, stream) == expected
        assert jobs_logged(settings, stream) == ("all" if expected else "none")
    assert jobs_logged(load_settings(log_jobs="failed"), Terminal()) == "failed"


def test_the_whole_process_logs_in_the_form_that_the_settings_name() -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        configure_logs(load_settings(log_format="json"), "moodq-worker", stream)
        logging.getLogger("moodq_worker.wiring").info("ready")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(capture=False)
    found = as_object(stream.getvalue())
    assert found["service.name"] == "moodq-worker"
    assert found["log.logger"] == "moodq_worker.wiring"
