"""``moodq model list | pull | use | info | rm``. Heavy imports happen inside the commands."""

from __future__ import annotations

import json
from pathlib import Path

import click

from moodq_config.memory import MIB
from moodq_config.settings import Settings, load_settings

_MODEL = click.argument("name", metavar="[MODEL]", default="")


def _say(line: str) -> None:
    click.echo(line, err=True)


@click.group()
def model() -> None:
    """See, fetch, choose, check and remove models.

    A MODEL is a declared name (`moodq model list`), a local folder as save_pretrained writes it, or a hub id
    (owner/name). MOODQ_MODEL, or `moodq model use`, chooses the one a worker loads. Once fetched, no model
    needs the network.
    """


@model.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list instead of a table.")
def list_models(as_json: bool) -> None:
    """List the declared models and those that are here; * marks the chosen one."""
    from moodq_worker.model_shelf import shelf

    models = list(shelf(load_settings()))
    if as_json:
        rows = [
            {
                "name": one.name, "kind": one.kind, "here": one.path is not None, "chosen": one.chosen,
                "bytes": one.bytes, "revision": one.revision, "licence": one.licence, "title": one.title,
                "path": str(one.path) if one.path else None,
            }
            for one in models
        ]  # fmt: skip
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    table = [("", "model", "kind", "here", "revision", "licence", "about")]
    for one in models:
        here = f"{one.bytes / MIB:,.0f} MiB" if one.path is not None else "-"
        mark = "*" if one.chosen else ""
        table.append((mark, one.name, one.kind, here, one.revision, one.licence, one.title))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for line in table:
        cells = [cell.ljust(width) for cell, width in zip(line, widths, strict=True)]
        click.echo("  ".join(cells).rstrip())


@model.command()
@_MODEL
def pull(name: str) -> None:
    """Fetch, check and convert MODEL, or the chosen one, unless it is here already.

    What was cut short goes on where it was: parts that are here are not fetched again.
    """
    from moodq_worker.model_store import resolve

    click.echo(resolve(_settings(name), progress=_say).path)


@model.command()
@click.argument("name", metavar="MODEL")
def use(name: str) -> None:
    """Fetch MODEL if need be and choose it: `model` in moodq.toml, or in the file that MOODQ_CONFIG names.

    Workers that run keep theirs; the next one that starts loads the new one.
    """
    from moodq_worker.model_shelf import choose
    from moodq_worker.model_store import resolve

    files = resolve(_settings(name), progress=_say)
    file = choose(name, files)
    click.echo(f"{files.id} {files.revision}, licence {files.licence or 'not told'}, is the model in {file}")


@model.command()
@_MODEL
@click.option("--verify", "check", is_flag=True, help="Also compare every file with its hash.")
def info(name: str, check: bool) -> None:
    """Show where MODEL, or the chosen one, came from, its licence, revision, hash and folder."""
    from moodq_worker.model_store import resolve, sources, verify

    settings = _settings(name)
    source = sources().get(settings.model)
    if check and source is not None and source.kind == "wheels":
        verify(settings, source)
    files = resolve(settings, progress=_say)
    for field in ("id", "revision", "licence", "origin", "path"):
        click.echo(f"{field:<9} {getattr(files, field)}")
    if source is not None and source.sha256:
        click.echo(f"{'sha256':<9} {source.sha256}")


@model.command()
@click.argument("name", metavar="MODEL")
@click.option("--yes", is_flag=True, help="Do not ask.")
def rm(name: str, yes: bool) -> None:
    """Remove the files of MODEL, a declared one or one of the hub, from this machine. A folder stays."""
    from moodq_worker.model_shelf import chosen_name, remove

    settings = load_settings()
    if not yes:
        chosen = " It is the chosen model." if chosen_name(name) == chosen_name(settings.model) else ""
        click.confirm(f"Remove the files of {name}?{chosen}", abort=True, err=True)
    freed = remove(settings, name)
    click.echo(f"{name} removed, {freed / MIB:,.0f} MiB free")


def _settings(name: str) -> Settings:
    """The settings, with MODEL in the place of the chosen one."""
    settings = load_settings()
    if not name:
        return settings
    folder = Path(name)
    return settings.model_copy(
        update={"model": str(folder) if folder.is_dir() else name, "model_revision": None}
    )
