"""Which models lie on this machine, which of them is chosen, and how to choose or remove one.

Beside ``model_store``, which fetches them: ``moodq model list | use | rm``.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moodq_config.errors import ConfigError, ModelError
from moodq_config.settings import Settings
from moodq_config.settings_sources import config_file
from moodq_worker.model_store import ModelFiles, Source, folder_of, installed, only_one, sources

_MODEL_LINE = re.compile(r"^model\s*=.*$", re.MULTILINE)
_TABLE_LINE = re.compile(r"^\s*\[", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Shelved:
    """One model: ``kind`` is ``wheels``, ``hub`` or ``folder``; ``path`` is None while it is not here."""

    name: str
    kind: str
    revision: str
    licence: str
    title: str
    path: Path | None
    bytes: int
    chosen: bool


def shelf(settings: Settings) -> Iterator[Shelved]:
    """The declared models, those of the hub's cache, and the chosen one if it is none of these."""
    named = set()
    chosen = chosen_name(settings.model)
    cached = dict(_cached_of_hub())
    for name, source in sources().items():
        if name == "default":
            continue
        named |= {name, source.origin} if source.kind == "hub" else {name}
        path = installed(settings, source) if source.kind == "wheels" else cached.get(source.origin)
        yield Shelved(
            name,
            source.kind,
            source.revision or (path.name[:12] if path else ""),
            source.licence,
            source.title,
            path,
            _size(path),
            chosen in (name, source.origin if source.kind == "hub" else name),
        )
    for name, path in cached.items():
        if name not in named:
            named.add(name)
            licence = "see the model's page"
            yield Shelved(
                name, "hub", path.name[:12], licence, "from the hub", path, _size(path), chosen == name
            )
    if chosen not in named:
        folder = Path(chosen)
        here = folder if folder.is_dir() else None
        kind = "folder" if here or chosen.startswith((".", "/", "~")) else "hub"
        yield Shelved(chosen, kind, "", "", "", here, _size(here), chosen=True)


def chosen_name(model: str) -> str:
    """``model`` by its own name, where it is an alias."""
    source = sources().get(model)
    return source.name if source is not None else model


def choose(wanted: str, files: ModelFiles) -> Path:
    """Note ``wanted``, which was resolved to ``files``, in the settings file, and give that file. Everything
    else in it stays as it is. Raises ``ConfigError`` where something else would win over the file, or the
    file cannot be changed without harm."""
    if "MOODQ_MODEL" in os.environ:
        raise ConfigError("MOODQ_MODEL is set in the environment and wins over the file; change it there")
    model = str(files.path.resolve()) if Path(wanted).is_dir() else wanted
    file = config_file()
    text = file.read_text("utf-8") if file.is_file() else ""
    line = f'model = "{model}"'
    # A top-level key must come before the first table.
    table = _TABLE_LINE.search(text)
    head, tail = (text[: table.start()], text[table.start() :]) if table else (text, "")
    if _MODEL_LINE.search(head):
        head = _MODEL_LINE.sub(lambda _: line, head, count=1)
    else:
        head = f"{head}{'' if not head or head.endswith(chr(10)) else chr(10)}{line}\n"
    changed = head + tail
    before: dict[str, Any] = tomllib.loads(text)
    try:
        fine = tomllib.loads(changed) == {**before, "model": model}
    except tomllib.TOMLDecodeError:
        fine = False
    if not fine:
        raise ConfigError(f"{file} is written in a way that is not changed by itself; put {line} into it")
    _replace(file, changed)
    return file


def remove(settings: Settings, name: str) -> int:
    """Delete the files of model ``name`` and what was fetched for it; gives the bytes that are free now.

    Raises ``ModelError`` when it is not here, or is a folder of yours. A worker that runs keeps what it has
    mapped until it ends.
    """
    source = sources().get(name)
    if source is not None and source.kind == "wheels":
        return _remove_converted(settings, source)
    if Path(name).is_dir():
        raise ModelError(f"{name} is a folder of yours; remove it by hand if you want to")
    return _remove_from_hub(source.origin if source is not None else name)


def _remove_converted(settings: Settings, source: Source) -> int:
    folder = folder_of(settings, source)
    with only_one(folder.parent):
        if not folder.is_dir():
            raise ModelError(f"{source.name} is not here; `moodq model list` shows what is")
        freed = _size(folder)
        # Renamed first: a removal that is cut short leaves no half a model under the name.
        away = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-removed-"))
        folder.rename(away / folder.name)
        shutil.rmtree(away)
    return freed


def _remove_from_hub(repository: str) -> int:
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        cache = scan_cache_dir()
    except CacheNotFound:
        raise ModelError(f"{repository} is not here; `moodq model list` shows what is") from None
    revisions = [
        revision.commit_hash
        for repo in cache.repos
        if repo.repo_id == repository and repo.repo_type == "model"
        for revision in repo.revisions
    ]
    if not revisions:
        raise ModelError(f"{repository} is not here; `moodq model list` shows what is")
    strategy = cache.delete_revisions(*revisions)
    strategy.execute()
    return int(strategy.expected_freed_size)


def _cached_of_hub() -> Iterator[tuple[str, Path]]:
    """Models in the hub's cache that could be loaded, by id, each with its newest snapshot."""
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.errors import CacheNotFound

    try:
        repos = scan_cache_dir().repos
    except CacheNotFound:
        return
    for repo in sorted(repos, key=lambda repo: repo.repo_id):
        if repo.repo_type != "model" or not repo.revisions:
            continue
        newest = max(repo.revisions, key=lambda revision: revision.last_modified)
        if (newest.snapshot_path / "config.json").exists():
            yield repo.repo_id, newest.snapshot_path


def _size(path: Path | None) -> int:
    return sum(one.stat().st_size for one in path.rglob("*") if one.is_file()) if path else 0


def _replace(file: Path, text: str) -> None:
    """Write whole or not at all."""
    with tempfile.NamedTemporaryFile(
        "w", encoding="utf-8", dir=file.resolve().parent, prefix=f".{file.name}-", delete=False
    ) as new:
        new.write(text)
    if file.exists():
        shutil.copymode(file, new.name)
    os.replace(new.name, file.resolve())
