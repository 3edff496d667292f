"""What a person does first, with the real model in real processes: ``moodq send``."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.real_model

REFUSALS = ("无法协助", "不能协助", "无法帮助", "作为一个", "can't assist", "cannot assist", "As an AI")
MOODQ = [sys.executable, "-m", "moodq_config.cli"]


def send(service: Any, *arguments: str, stdin: bytes | None = None) -> list[dict[str, Any]]:
    done = subprocess.run(
        [*MOODQ, "send", *arguments, "--json"],
        env=service.env,
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, 3), done.stderr.decode()
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def has_ideographs(text: str) -> bool:
    return any("\u4e00" <= char <= "\u9fff" for char in text)


def test_a_happy_chinese_message_is_positive_and_gets_a_chinese_reply(service: Any) -> None:
    [found] = send(service, "今天的实验终于成功了，太棒了！", "--tasks", "sentiment,reply")
    assert found["results"]["sentiment"]["label"] == "positive"
    assert found["results"]["sentiment"]["probability"] > 0.5
    reply = found["results"]["reply"]["text"]
    assert has_ideographs(reply)
    assert not any(phrase in reply for phrase in REFUSALS)


def test_an_angry_english_message_is_negative_and_gets_an_english_reply(service: Any) -> None:
    [found] = send(
        service, "My package arrived broken and nobody answers my mails.", "--tasks", "sentiment,reply"
    )
    assert found["results"]["sentiment"]["label"] == "negative"
    reply = found["results"]["reply"]["text"]
    assert not has_ideographs(reply)
    assert len(reply.split()) > 5
    assert not any(phrase in reply for phrase in REFUSALS)


def test_lines_on_stdin_come_back_in_order_and_a_bad_one_fails_alone(service: Any) -> None:
    lines = ["太好吃了，下次还来".encode(), b"broken \xff\xfe bytes", "又迟到又难吃，差评".encode()]
    found = send(service, "-", "--tasks", "sentiment", stdin=b"\n".join(lines) + b"\n")
    assert [entry["status"] for entry in found] == ["done", "failed", "done"]
    assert found[1]["error"]["code"] == "invalid_utf8"
    labels = [found[n]["results"]["sentiment"]["label"] for n in (0, 2)]
    assert labels == ["positive", "negative"]


def test_every_result_arrives_although_the_worker_is_killed_in_the_middle(service: Any) -> None:
    texts = [f"第{number}次点了，味道还是不错，送得也快" for number in range(300)]
    with subprocess.Popen(
        [*MOODQ, "send", "-", "--tasks", "sentiment", "--json", "--timeout", "180"],
        env=service.env, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as running:  # fmt: skip
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write("\n".join(texts).encode())
        running.stdin.close()
        service.wait_until_busy()
        service.kill_worker()
        service.start_worker()
        found = [json.loads(line) for line in running.stdout.read().splitlines()]
        assert running.wait(timeout=30) == 0
    assert len(found) == len(texts)
    assert {entry["status"] for entry in found} == {"done"}
    assert max(entry["attempt"] for entry in found) == 2
