"""The gateway's parts without a server: addresses of callbacks, signatures, speed, its page in docs."""

from __future__ import annotations

import ipaddress
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moodq_config.settings import Settings, load_settings
from moodq_config.worker_info import Latencies, WorkerInfo
from moodq_producer.gateway import problems
from moodq_producer.gateway.app import create_app
from moodq_producer.gateway.callbacks.addresses import is_public
from moodq_producer.gateway.callbacks.signing import secret_of, shown, signed_headers
from moodq_producer.gateway.speed import Speed

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "gateway.md").read_text("utf-8")


@given(st.ip_addresses(v=4))
def test_an_address_hidden_in_another_is_as_public_as_it_is(address: ipaddress.IPv4Address) -> None:
    plain = is_public(address)
    for text in (f"::ffff:{address}", f"64:ff9b::{address}"):
        assert is_public(ipaddress.ip_address(text)) == plain
    number = int(address)
    assert is_public(ipaddress.ip_address(f"2002:{number >> 16:x}:{number & 0xFFFF:x}::1")) in (plain, False)


@pytest.mark.parametrize("network", ["10.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "fc00::/7", "fe80::/10"])
def test_no_address_of_a_private_network_is_public(network: str) -> None:
    found = ipaddress.ip_network(network)
    for address in (found[0], found[1], found[-1]):
        assert not is_public(address)


def snippet() -> dict[str, Any]:
    """What the page shows receivers in Python, run."""
    [code] = re.findall(r"```python\n(import base64.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


@given(st.binary(max_size=500), st.text(max_size=50))
def test_the_pages_receiver_takes_what_the_gateway_signs_and_nothing_else(body: bytes, key: str) -> None:
    is_ours = snippet()["is_ours"]
    secret, now = secret_of("master", key), int(time.time())
    headers = signed_headers(secret, "cb_1", now, body)
    assert is_ours(headers, body, shown(secret))
    assert not is_ours(headers, body + b" ", shown(secret))
    assert not is_ours(headers, body, shown(secret_of("master", key + "x")))
    assert not is_ours({**headers, "webhook-id": "cb_2"}, body, shown(secret))
    assert not is_ours(signed_headers(secret, "cb_1", now - 400, body), body, shown(secret))


def worker(at: float, done: int) -> WorkerInfo:
    return WorkerInfo(at=at, started_at=0, latencies=Latencies(bounds=(1,), queues={"bulk": (done, 0)}))


def test_the_speed_is_that_of_the_last_ten_seconds_of_the_living_workers() -> None:
    speed = Speed()
    assert speed.now({"a": worker(100, 1_000)}) == 0
    assert speed.now({"a": worker(102, 1_010)}) == 5
    assert speed.now({"a": worker(102, 1_010)}) == 5  # nothing new
    assert speed.now({"a": worker(104, 1_020), "b": worker(104, 7)}) == 5
    assert speed.now({"b": worker(106, 27)}) == 10  # a is gone
    for at in range(108, 130, 2):
        last = speed.now({"b": worker(at, 27)})
    assert last == 0
    assert speed.now({"b": worker(131, 3)}) == 0  # begun again


def test_the_page_names_every_setting_and_code_of_the_gateway() -> None:
    for field in Settings.model_fields:
        if field.startswith("gateway_"):
            assert f"MOODQ_{field.upper()}" in PAGE, field
    protocol = (ROOT / "docs" / "protocol.md").read_text("utf-8")
    for code in problems.STATUS:
        assert f"`{code}`" in PAGE or f"`{code}`" in protocol, code


def test_every_route_is_in_the_page_and_every_problem_in_the_document() -> None:
    document = create_app(load_settings(redis_url="redis://127.0.0.1:1")).openapi()
    for path, operations in document["paths"].items():
        assert path.replace("{id}", "ID") in PAGE, path
        for operation in operations.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(answer["content"]) == [problems.MEDIA_TYPE]
    assert json.dumps(document)
