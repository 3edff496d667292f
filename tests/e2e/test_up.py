"""``moodq up`` as a process, and what stops a worker from starting, each with its own code and message."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from redis import Redis

from moodq_config.settings import embedded_url_file, load_settings
from moodq_worker.embedded import answers, ensure_server, free_port
from moodq_worker.up_gateway import GatewayProcess

WAIT_S = 60.0


def environment(folder: Path, **more: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("MOODQ_")}
    return {
        **inherited,
        "MOODQ_DATA_DIR": str(folder),
        "MOODQ_ENGINE": "fake",
        "MOODQ_METRICS_PORT": "0",
        "MOODQ_GATEWAY_PORT": "0",
        **more,
    }


def start_up(env: dict[str, str], cwd: Path, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "moodq_config.cli", "up", *options], env=env, cwd=cwd, stderr=subprocess.PIPE
    )


def wait_for_line(process: subprocess.Popen[bytes], needle: bytes) -> list[bytes]:
    lines = []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        if needle in line:
            return lines
    raise AssertionError(f"{needle!r} did not come: {b''.join(lines).decode()}")


def send(env: dict[str, str], text: str) -> dict[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "moodq_config.cli", "send", text, "--json"],
        env=env, capture_output=True, timeout=WAIT_S, check=True,
    )  # fmt: skip
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_up_serves_restarts_a_dead_worker_and_stops_cleanly(tmp_path: Path) -> None:
    env = environment(tmp_path / "data")
    up = start_up(env, tmp_path)
    try:
        first = wait_for_line(up, b"ready. In another terminal")
        assert any(b"started" in line for line in first)
        [gateway] = [line.split()[1].decode() for line in first if line.startswith(b"gateway: http://")]
        assert analyze(gateway, "太棒了！")["status"] == "done"
        assert send(env, "fine")["status"] == "done"
        url = embedded_url_file(load_settings(data_dir=tmp_path / "data")).read_text().strip()
        with Redis.from_url(url) as connection:
            (worker_key,) = connection.smembers("rq:workers")
            os.kill(int(connection.hget(worker_key, "pid") or 0), signal.SIGKILL)
        wait_for_line(up, b"worker: ready")
        assert send(env, "fine again")["status"] == "done"
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.stderr is not None
        up.stderr.read()
        up.stderr.close()
    assert up.wait(WAIT_S) == 0
    assert not answers(url)
    with pytest.raises(OSError):
        analyze(gateway, "gone")


def test_up_without_a_gateway_serves_no_http_and_starts_another_when_one_ended(tmp_path: Path) -> None:
    env = environment(tmp_path / "data")
    up = start_up(env, tmp_path, "--no-gateway")
    try:
        lines = wait_for_line(up, b"ready. In another terminal")
        assert not any(line.startswith(b"gateway:") for line in lines)
    finally:
        end(up)
    said: list[str] = []
    server = ensure_server(load_settings(data_dir=tmp_path / "data"))
    gateway = GatewayProcess(
        load_settings(gateway_port=0), {**env, "MOODQ_REDIS_URL": server.url}, said.append
    )
    try:
        assert gateway.wait_ready()
        gateway._process.kill()
        gateway._process.wait()
        deadline = time.monotonic() + WAIT_S
        while not gateway._answers():
            gateway.look()
            time.sleep(0.05)
            assert time.monotonic() < deadline
        assert said == [f"gateway: {gateway.url}", "the gateway ended with -9; starting another in 0.5 s"]
    finally:
        gateway.stop()
        server.stop()


def end(up: subprocess.Popen[bytes]) -> None:
    up.send_signal(signal.SIGTERM)
    assert up.stderr is not None
    up.stderr.read()
    up.stderr.close()
    assert up.wait(WAIT_S) == 0


def analyze(url: str, text: str) -> dict[str, object]:
    request = urllib.request.Request(
        f"{url}/v1/analyze",
        data=json.dumps({"text": text}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
        found: dict[str, object] = json.load(answer)
        return found


def test_a_second_up_finds_the_first_ones_server_and_leaves_it_running(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "data")
    first = ensure_server(settings)
    try:
        assert first.started_here
        with Redis.from_url(first.url) as connection:
            connection.set("kept", "yes")
        second = ensure_server(settings)
        assert second.url == first.url
        assert not second.started_here
        second.stop()
        assert answers(first.url)
    finally:
        first.stop()
    again = ensure_server(settings)
    try:
        with Redis.from_url(again.url) as connection:
            assert connection.get("kept") == b"yes"
    finally:
        again.stop()


def test_a_server_that_was_killed_leaves_its_data_and_is_started_again(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path / "data")
    first = ensure_server(settings)
    with Redis.from_url(first.url) as connection:
        connection.set("kept", "yes")
        time.sleep(1.2)  # the append-only file is flushed every second
    assert first.process is not None
    first.process.kill()
    first.process.wait()
    again = ensure_server(settings)
    try:
        assert again.started_here
        with Redis.from_url(again.url) as connection:
            assert connection.get("kept") == b"yes"
    finally:
        again.stop()


def run_worker(env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "moodq_worker"],
        env=env,
        cwd=cwd,
        capture_output=True,
        timeout=WAIT_S,
        check=False,
    )


def test_a_redis_that_cannot_be_reached_ends_the_start_with_4(tmp_path: Path) -> None:
    url = f"redis://user:secret@127.0.0.1:{free_port()}/0"
    done = run_worker(environment(tmp_path, MOODQ_REDIS_URL=url), tmp_path)
    message = done.stderr.decode()
    assert done.returncode == 4
    assert "redis_unreachable" in message
    assert "MOODQ_REDIS_URL" in message
    assert "secret" not in message
    assert len(message.splitlines()) == 1


def test_no_redis_at_all_says_how_to_get_one(tmp_path: Path) -> None:
    done = run_worker(environment(tmp_path), tmp_path)
    assert done.returncode == 4
    assert "moodq up" in done.stderr.decode()


@pytest.fixture
def server_env(tmp_path: Path) -> object:
    server = ensure_server(load_settings(data_dir=tmp_path / "data"))
    yield environment(tmp_path / "data", MOODQ_REDIS_URL=server.url)
    server.stop()


def test_a_taken_port_ends_the_start_with_4_and_names_the_setting(
    server_env: dict[str, str], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_worker({**server_env, "MOODQ_METRICS_PORT": str(port)}, tmp_path)
    assert done.returncode == 4
    assert "port_taken" in done.stderr.decode()
    assert f"127.0.0.1:{port}" in done.stderr.decode()


def test_a_folder_that_is_no_model_ends_the_start_with_5_and_says_what_is_missing(
    server_env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    env = {**server_env, "MOODQ_ENGINE": "hf", "MOODQ_MODEL": str(tmp_path / "empty")}
    done = run_worker(env, tmp_path)
    assert done.returncode == 5
    assert "model_invalid" in done.stderr.decode()
    assert "config.json" in done.stderr.decode()


def test_weights_that_are_garbage_end_the_start_with_5(server_env: dict[str, str], tmp_path: Path) -> None:
    folder = tmp_path / "garbage"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"\x00" * 100)
    env = {**server_env, "MOODQ_ENGINE": "hf", "MOODQ_MODEL": str(folder)}
    done = run_worker(env, tmp_path)
    assert done.returncode == 5
    assert "cannot be loaded" in done.stderr.decode()


def test_a_wrong_setting_ends_the_start_with_2(tmp_path: Path) -> None:
    done = run_worker(environment(tmp_path, MOODQ_LEASE_S="0"), tmp_path)
    assert done.returncode == 2
    assert "MOODQ_LEASE_S" in done.stderr.decode()
