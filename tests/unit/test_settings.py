"""Settings: where values come from, which are refused and how, and what ``moodq config`` shows."""

from __future__ import annotations

import json
import os
from pathlib import Path
from urllib.parse import quote_plus

import pytest
from click.testing import CliRunner

from moodq_config.cli_config import command as config_command
from moodq_config.errors import ConfigError, ErrorCode
from moodq_config.redis_url import sentinel_url
from moodq_config.settings import Settings, load_settings, mask_url, origins, server_url


@pytest.fixture(autouse=True)
def _no_outside_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("MOODQ_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def refusal() -> str:
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert caught.value.code == ErrorCode.CONFIG_INVALID
    return caught.value.message


def test_the_defaults_alone_are_valid_and_say_so() -> None:
    settings = load_settings()
    assert settings.redis_url is None
    assert settings.queues == ("interactive", "bulk")
    assert set(origins(settings).values()) == {"default"}


def test_data_lies_in_the_users_data_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert load_settings().data_dir == tmp_path / "moodq"


def test_sources_win_in_the_order_argument_environment_dotenv_toml_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Path("moodq.toml").write_text("result_ttl_s = 100\nthreads = 1\n", "utf-8")
    assert load_settings().result_ttl_s == 100

    Path(".env").write_text("MOODQ_RESULT_TTL_S=200\n", "utf-8")
    assert load_settings().result_ttl_s == 200

    monkeypatch.setenv("MOODQ_RESULT_TTL_S", "300")
    settings = load_settings()
    assert settings.result_ttl_s == 300
    assert load_settings(result_ttl_s=400).result_ttl_s == 400

    found = origins(settings, {"max_attempts": 5})
    assert found["result_ttl_s"] == "environment"
    assert found["threads"] == "moodq.toml"
    assert found["max_attempts"] == "argument"
    assert found["lease_s"] == "default"


def test_a_value_of_dotenv_is_said_to_come_from_dotenv() -> None:
    Path(".env").write_text("# a comment = with a sign\nexport MOODQ_THREADS=2\n", "utf-8")
    settings = load_settings()
    assert settings.threads == 2
    assert origins(settings)["threads"] == ".env"


def test_another_toml_file_can_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('queues = ["calm", "busy"]\n', "utf-8")
    monkeypatch.setenv("MOODQ_CONFIG", str(other))
    settings = load_settings()
    assert settings.queues == ("calm", "busy")
    assert origins(settings)["queues"] == str(other)


def test_queues_are_a_comma_separated_list_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODQ_QUEUES", "interactive, bulk ,nightly")
    assert load_settings().queues == ("interactive", "bulk", "nightly")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("MOODQ_RESULT_TTL_S", "9", ["'9'", "at least 10", "at most 604800"]),
        ("MOODQ_RESULT_TTL_S", "604801", ["at most 604800"]),
        ("MOODQ_RESULT_TTL_S", "soon", ["'soon'", "integer"]),
        ("MOODQ_LEASE_S", "nan", ["'nan'", "at least 2.0", "at most 600.0"]),
        ("MOODQ_METRICS_PORT", "65536", ["at most 65535"]),
        ("MOODQ_PRECISION", "int3", ["'auto', 'bf16', 'fp32', 'fp16' or 'int8'"]),
        ("MOODQ_LOG_LEVEL", "loud", ["'DEBUG', 'INFO', 'WARNING' or 'ERROR'"]),
        ("MOODQ_QUEUES", "in:teractive", ["match pattern"]),
        ("MOODQ_QUEUES", "", ["at least 1 item"]),
        ("MOODQ_REDIS_URL", "http://host", ["redis://, rediss://, unix://, sentinel:// or"]),
        ("MOODQ_REDIS_URL", "", ["redis://, rediss://, unix://, sentinel:// or"]),
        ("MOODQ_WORKER_NAME", "a b", ["matching"]),
    ],
)
def test_a_wrong_value_is_refused_naming_the_variable_and_what_is_accepted(
    name: str, value: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    message = refusal()
    assert message.startswith(f"{name}:")
    for part in expected:
        assert part in message


def test_every_wrong_value_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODQ_THREADS", "-1")
    monkeypatch.setenv("MOODQ_MAX_REPLIES", "0")
    lines = refusal().splitlines()
    assert sorted(line.partition(":")[0] for line in lines) == ["MOODQ_MAX_REPLIES", "MOODQ_THREADS"]


def test_a_refused_redis_url_does_not_show_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODQ_REDIS_URL", "https://user:hush@host")
    assert "hush" not in refusal()


@pytest.mark.parametrize("where", ["environment", ".env", "toml"])
def test_an_unknown_name_is_refused_with_the_nearest_known_one(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "environment":
        monkeypatch.setenv("MOODQ_REDIS_ULR", "redis://host")
    elif where == ".env":
        Path(".env").write_text("MOODQ_REDIS_ULR=redis://host\n", "utf-8")
    else:
        Path("moodq.toml").write_text('redis_ulr = "redis://host"\n', "utf-8")
    message = refusal()
    assert "MOODQ_REDIS_ULR is not a setting" in message
    assert "did you mean MOODQ_REDIS_URL?" in message


def test_names_of_other_programs_in_dotenv_are_left_alone() -> None:
    Path(".env").write_text("POSTGRES_PASSWORD=x\nNOT_MOODQ_THREADS=9\n", "utf-8")
    assert load_settings().threads == 0


@pytest.mark.parametrize("place", [".env", "moodq.toml"])
def test_the_name_of_the_toml_file_counts_in_the_environment_only(place: str) -> None:
    line = "MOODQ_CONFIG=a.toml\n" if place == ".env" else 'config = "a.toml"\n'
    Path(place).write_text(line, "utf-8")
    assert "environment only" in refusal()


def test_broken_files_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("moodq.toml").write_text("threads = = 2\n", "utf-8")
    assert refusal().startswith("moodq.toml: ")

    Path("moodq.toml").unlink()
    Path(".env").write_bytes(b"MOODQ_THREADS=\xff\n")
    assert refusal().startswith(".env cannot be read")

    Path(".env").unlink()
    monkeypatch.setenv("MOODQ_CONFIG", "missing.toml")
    assert "missing.toml, which is not a file" in refusal()


def test_settings_cannot_be_changed_once_built() -> None:
    settings = load_settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.threads = 4  # type: ignore[misc]  # the point of the test


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:hush@host:6379/0", "redis://user:***@host:6379/0"),
        ("rediss://:hush@[fe80::1]:6379/0", "rediss://:***@[fe80::1]:6379/0"),
        ("unix:///run/valkey.sock?password=hush&db=1", "unix:///run/valkey.sock?password=***&db=1"),
        ("redis://host?db=0&sentinel_password=a@hush", "redis://host?db=0&sentinel_password=***"),
        ("redis://user:hu/hush@host", "redis://user:***@host"),
        ("redis://user@host:6379/0", "redis://user@host:6379/0"),
        (
            "sentinel://u:hush@a,b:1/main/0?sentinel_password=hush",
            "sentinel://u:***@a,b:1/main/0?sentinel_password=***",
        ),
        ("redis://host:6379/0", "redis://host:6379/0"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert mask_url(url) == shown


def test_a_sentinel_url_names_hosts_service_database_and_both_passwords() -> None:
    url = (
        "rediss+sentinel://app:p%40ss@a,b:26380,[fe80::1]:1/main/3?sentinel_password=x%26y&ssl_cert_reqs=none"
    )
    found = sentinel_url(load_settings(redis_url=url).redis_url or "")
    assert found is not None
    assert found.nodes == (("a", 26379), ("b", 26380), ("fe80::1", 1))
    assert (found.service, found.username, found.password) == ("main", None, "x&y")
    assert found.server_url == "rediss://app:p%40ss@sentinel/3?ssl_cert_reqs=none"
    assert sentinel_url("redis://host") is None


@pytest.mark.parametrize(
    "url",
    [
        *(
            "sentinel://a,b",
            "sentinel://a/",
            "sentinel://a/main/x",
            "sentinel:///main",
            "sentinel://a,,b/main",
        ),
        *("sentinel://a:0/main", "sentinel://a:99999/main", "sentinel://a:b/main", "sentinels://a/main"),
    ],
)
def test_a_sentinel_url_that_is_no_good_is_refused_with_an_example(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOODQ_REDIS_URL", url)
    assert refusal().startswith("MOODQ_REDIS_URL: ")
    assert "//" in refusal() or "/mymaster/0" in refusal()


def test_config_as_json_gives_every_setting_its_value_and_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODQ_REDIS_URL", "redis://user:hush@host:6379/0")
    monkeypatch.setenv("MOODQ_QUEUES", "a,b")
    outcome = CliRunner().invoke(config_command, ["--json"])
    assert outcome.exit_code == 0
    shown = json.loads(outcome.output)
    assert set(shown) == {f"MOODQ_{field.upper()}" for field in Settings.model_fields} | {"redis_memory"}
    assert shown["MOODQ_REDIS_URL"] == {"value": "redis://user:***@host:6379/0", "from": "environment"}
    assert shown["MOODQ_QUEUES"]["value"] == "a,b"
    assert shown["MOODQ_THREADS"] == {"value": "0", "from": "default"}
    assert shown["MOODQ_TASKS_FILE"]["value"] == "(unset)"
    assert "hush" not in outcome.output


def test_the_config_table_shows_values_that_look_like_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODQ_MODEL", "[red]x[/red]")
    monkeypatch.setenv("COLUMNS", "200")
    outcome = CliRunner().invoke(config_command)
    assert outcome.exit_code == 0, outcome.exception
    assert "[red]x[/red]" in outcome.output


def test_every_setting_but_the_self_evident_says_what_it_means() -> None:
    silent = {field for field, info in Settings.model_fields.items() if not info.description}
    assert silent <= {"device", "metrics_host", "log_level"}


def test_the_files_of_tls_go_into_the_url_and_only_with_tls(tmp_path: Path) -> None:
    ca = tmp_path / "our ca.pem"
    ca.write_text("")
    settings = load_settings(redis_url="rediss://u:p@h/0?a=b", redis_ca_file=ca)
    assert server_url(settings) == f"rediss://u:p@h/0?a=b&ssl_ca_certs={quote_plus(str(ca))}"
    with pytest.raises(ConfigError, match=r"MOODQ_REDIS_CA_FILE.*rediss"):
        load_settings(redis_url="redis://h/0", redis_ca_file=ca)
    with pytest.raises(ConfigError, match="is not a file"):
        load_settings(redis_url="rediss://h/0", redis_key_file=tmp_path / "none")


def test_a_password_that_breaks_the_url_is_not_repeated() -> None:
    with pytest.raises(ConfigError, match="%2F") as caught:
        load_settings(redis_url="redis://:s3cr/et@h:6379/0")
    assert "s3cr" not in str(caught.value)


def test_prefixes_of_ids_are_for_known_queues_and_of_plain_characters() -> None:
    settings = load_settings(queues="interactive,shop", queue_id_prefixes="shop=shop-")
    assert settings.queue_id_prefixes == {"shop": "shop-"}
    for wrong in ("bank=bank-", "shop=", "shop=a b", "shop=a:b"):
        with pytest.raises(ConfigError, match="MOODQ_QUEUE_ID_PREFIXES"):
            load_settings(queues="interactive,shop", queue_id_prefixes=wrong)
