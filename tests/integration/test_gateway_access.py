"""Who the gateway lets in, how often, and where it refuses to listen."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from integration.conftest import free_port
from integration.gateway_server import problem_of, serving
from moodq_config.cli import root
from moodq_config.errors import ConfigError, Unavailable
from moodq_config.settings import load_settings
from moodq_producer.gateway.keys import hash_of, new_key
from moodq_producer.gateway.serving import make_server

WAIT_S = 60.0


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_with_keys_only_they_open_what_is_under_v1_and_the_metrics(redis_url: str) -> None:
    key = new_key()
    async with serving(redis_url=redis_url, gateway_keys=f"shop={hash_of(key)}") as gateway:
        for headers in ({}, bearer("mq_wrong"), bearer(hash_of(key)), {"Authorization": f"Basic {key}"}):
            for path in ("/v1/tasks", "/v1/results/a", "/v1/stream/a", "/metrics"):
                answer = await gateway.get(path, headers=headers)
                assert problem_of(answer)["code"] == "unauthorized"
                assert answer.status_code == 401
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert (await gateway.post("/v1/jobs", json={"text": "x"}, headers=headers)).status_code == 401
        assert (await gateway.post("/v1/jobs", json={"text": "x"}, headers=bearer(key))).status_code == 202
        assert (await gateway.get("/metrics", headers=bearer(key))).status_code == 200
        for path in ("/", "/healthz", "/openapi.json"):
            assert (await gateway.get(path)).status_code == 200


async def test_a_key_counts_from_when_its_line_is_saved_until_the_line_is_taken_away(
    redis_url: str, tmp_path: Path
) -> None:
    first, second, path = new_key(), new_key(), tmp_path / "keys"
    path.write_text(f"# keys of the shop\nfirst={hash_of(first)}  # till\n\n")
    async with serving(redis_url=redis_url, gateway_keys_file=path) as gateway:

        async def opens(key: str) -> bool:
            return (await gateway.get("/v1/tasks", headers=bearer(key))).status_code == 200

        assert (await opens(first), await opens(second)) == (True, False)
        path.write_text(f"second={hash_of(second)}\n")
        await asyncio.sleep(1.1)
        assert (await opens(first), await opens(second)) == (False, True)
        path.write_text("second=oops\n")
        await asyncio.sleep(1.1)
        assert await opens(second)  # a broken file changes nothing
        path.write_text("")
        await asyncio.sleep(1.1)
        assert not await opens(second)  # an empty one locks up, it does not open


async def test_each_key_has_a_rate_of_its_own(redis_url: str) -> None:
    one, other = new_key(), new_key()
    keys = f"one={hash_of(one)},other={hash_of(other)}"
    async with serving(redis_url=redis_url, gateway_keys=keys, gateway_requests_per_s=5) as gateway:
        answers = [await gateway.get("/v1/results/a", headers=bearer(one)) for _ in range(30)]
        refused = [answer for answer in answers if answer.status_code == 429]
        assert len(refused) >= 15
        assert {problem_of(answer)["code"] for answer in refused} == {"rate_limited"}
        assert {answer.headers["Retry-After"] for answer in refused} == {"1"}
        assert (await gateway.get("/v1/results/a", headers=bearer(other))).status_code == 404
        await asyncio.sleep(2.1)
        assert (await gateway.get("/v1/results/a", headers=bearer(one))).status_code == 404


async def test_without_keys_a_name_of_somebody_elses_that_leads_here_opens_nothing(redis_url: str) -> None:
    async with serving(redis_url=redis_url) as gateway:
        for host in ("evil.example", "evil.example:8080", "127.0.0.1.evil.example", "[2001:db8::1]:80", ""):
            answer = await gateway.get("/v1/tasks", headers={"Host": host})
            assert problem_of(answer)["code"] == "unauthorized", host
        for host in ("localhost:8080", "127.0.0.1", "[::1]:8080", "LOCALHOST"):
            assert (await gateway.get("/v1/tasks", headers={"Host": host})).status_code == 200


async def test_only_so_many_waits_are_open_at_once(redis_url: str) -> None:
    async with serving(redis_url=redis_url, gateway_max_open=2) as gateway:
        body = {"text": "x", "wait_s": 1.0}
        answers = await asyncio.gather(*(gateway.post("/v1/analyze", json=body) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [202, 202, 503, 503]
        refused = next(answer for answer in answers if answer.status_code == 503)
        assert problem_of(refused)["code"] == "too_many_open"
        assert (await gateway.post("/v1/analyze", json={"text": "x", "wait_s": 0})).status_code == 202


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "example.org"])
def test_beyond_this_machine_it_refuses_to_start_without_keys(host: str) -> None:
    settings = load_settings(redis_url="redis://127.0.0.1:1", gateway_host=host, gateway_port=0)
    with pytest.raises(ConfigError, match="moodq gateway key new"):
        make_server(settings)


def test_with_keys_it_listens_anywhere_and_a_taken_port_is_told() -> None:
    keys = f"shop={hash_of(new_key())}"
    settings = load_settings(redis_url="redis://127.0.0.1:1", gateway_host="0.0.0.0", gateway_port=0)
    _, listening = make_server(settings.model_copy(update={"gateway_keys": keys}))
    with listening:
        taken = load_settings(redis_url="redis://127.0.0.1:1", gateway_port=listening.getsockname()[1])
        with pytest.raises(Unavailable, match="MOODQ_GATEWAY_PORT") as caught:
            make_server(taken)
        assert caught.value.code == "port_taken"


@pytest.mark.parametrize("line", ["shop", "shop=mq_key", "a b=" + "0" * 64, "shop=" + "A" * 64])
def test_a_line_that_is_no_key_is_refused_without_being_repeated(line: str) -> None:
    settings = load_settings(redis_url="redis://127.0.0.1:1", gateway_keys=line)
    with pytest.raises(ConfigError, match="entry 1 is not name=sha256") as caught:
        make_server(settings)
    assert "mq_key" not in caught.value.message


def test_a_new_key_is_printed_with_the_line_that_lets_it_in() -> None:
    done = CliRunner().invoke(root, ["gateway", "key", "new", "shop"])
    assert done.exit_code == 0
    key, line = (part.split()[1] for part in done.stdout.splitlines()[:2])
    assert line == f"shop={hash_of(key)}"
    assert CliRunner().invoke(root, ["gateway", "key", "new", "a b"]).exit_code == 2


def start(env: dict[str, str], cwd: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "moodq_config.cli", "gateway"], env=env, cwd=cwd, stderr=subprocess.PIPE
    )


def environment(**settings: Any) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MOODQ_")}
    return {**inherited, **settings}


def test_the_command_serves_and_ends_with_0_at_sigterm(redis_url: str, tmp_path: Path) -> None:
    port = free_port()
    env = environment(MOODQ_REDIS_URL=redis_url, MOODQ_GATEWAY_PORT=str(port), MOODQ_DATA_DIR=str(tmp_path))
    gateway = start(env, tmp_path)
    assert gateway.stderr is not None
    try:
        assert gateway.stderr.readline().decode().strip() == f"gateway: http://127.0.0.1:{port}"
        for _ in range(600):
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=5) as answer:
                    assert answer.status == 200
                    break
            except OSError:
                assert gateway.poll() is None
        gateway.send_signal(signal.SIGTERM)
        assert gateway.wait(WAIT_S) == 0
    finally:
        gateway.kill()
        gateway.stderr.close()


def test_the_command_ends_with_2_without_keys_and_with_4_without_a_redis(tmp_path: Path) -> None:
    for code, settings in (
        (2, {"MOODQ_GATEWAY_HOST": "0.0.0.0", "MOODQ_REDIS_URL": "redis://127.0.0.1:1"}),
        (4, {}),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "moodq_config.cli", "gateway", "--port", "0"],
            env=environment(MOODQ_DATA_DIR=str(tmp_path), **settings),
            cwd=tmp_path, capture_output=True, timeout=WAIT_S, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert len(done.stderr.splitlines()) == 1
