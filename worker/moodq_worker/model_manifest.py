"""The manifest of a converted model: what every file was when it was written, so that no other is loaded.

Beside ``model_store``. The manifest itself is trusted no further than its pin: it must name the source that
``model_sources.toml`` pins, plain files, and nothing that is not in the folder or beside what it names.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from moodq_config.errors import ErrorCode, ModelError

MANIFEST = "manifest.json"
#: A manifest has some ten files.
MAX_MANIFEST_BYTES = 64 * 1024
#: Read and hashed at once. Python's lock is asked for between two, and may take milliseconds to come while
#: another thread imports.
HASH_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ManifestEntry:
    """What a converted file was when it was written."""

    bytes: int
    sha256: str


def write_manifest(folder: Path, **told: str) -> None:
    """Note size and hash of every file in ``folder``, and what is ``told``; ``source_sha256`` must be."""
    files = {
        path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        for path in sorted(folder.iterdir())
    }
    (folder / MANIFEST).write_text(json.dumps({**told, "files": files}, indent=2), "utf-8")


def check_sizes(folder: Path, source_sha256: str) -> dict[str, ManifestEntry]:
    """The files of ``folder`` by name. Raises ``ModelError`` (model_invalid) when one has another size."""
    files = _read(folder, source_sha256)
    for name, entry in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry.bytes:
            raise _damaged(folder, f"the size of {name} is not what {MANIFEST} says")
    return files


def check_folder(folder: Path, source_sha256: str) -> None:
    """Compare every file with its hash. Raises ``ModelError`` (model_invalid) on the first that differs, and
    for a file that the manifest does not name: Transformers might read it."""
    files = check_sizes(folder, source_sha256)
    for path in folder.iterdir():
        if path.name not in files and path.name != MANIFEST:
            raise _damaged(folder, f"{path.name} was not there when the model was converted")
    for name, entry in files.items():
        check_file(folder / name, entry.sha256, ErrorCode.MODEL_INVALID)


def check_file(path: Path, expected: str, code: ErrorCode) -> None:
    """Raises ``ModelError`` when the file's SHA-256 is another."""
    found = file_sha256(path)
    if found != expected:
        raise ModelError(
            f"{path.name} is corrupted: sha256 {found}, expected {expected}; it is not used, try again",
            code=code,
        )


def file_sha256(path: Path) -> str:
    """The file's SHA-256, in hex."""
    digest, buffer = hashlib.sha256(), bytearray(HASH_BYTES)
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def _read(folder: Path, source_sha256: str) -> dict[str, ManifestEntry]:
    """Raises ``ModelError`` (model_invalid) when it is no manifest, is another source's, or names a path."""
    path = folder / MANIFEST
    try:
        if path.stat().st_size > MAX_MANIFEST_BYTES:
            raise ValueError("too long")
        document = json.loads(path.read_text("utf-8"))
        pinned = document["source_sha256"] == source_sha256
        files = {
            str(name): ManifestEntry(int(entry["bytes"]), str(entry["sha256"]))
            for name, entry in document["files"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(folder, f"{MANIFEST} cannot be read ({type(error).__name__})") from error
    if not pinned:
        raise _damaged(folder, f"{MANIFEST} is of another source than the one pinned")
    for name in files:
        if name != Path(name).name or not name.strip("."):
            raise _damaged(folder, f"{MANIFEST} names a path, not a file")
    return files


def _damaged(folder: Path, what: str) -> ModelError:
    return ModelError(f"{what}; it is not used: remove {folder} and run `moodq model pull`")
