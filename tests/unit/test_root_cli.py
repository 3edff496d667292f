"""The root command: it finds subcommands, loads one only when it is called, and ends with stable codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from moodq_config.cli import COMMAND_GROUP, EXTRA_OF, missing_package
from moodq_config.errors import ErrorCode

RUN = "from moodq_config.cli import main; main()"
#: Says on stderr what was imported, whatever way the command ends.
RUN_AND_TELL = """
import atexit, json, sys
atexit.register(lambda: print("IMPORTED" + json.dumps(sorted(sys.modules)), file=sys.stderr))
from moodq_config.cli import main
main()
"""


def moodq(
    *args: str, code: str = RUN, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
    return subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=cwd,
        env={**clean, "COLUMNS": "200", "PYTHONIOENCODING": "utf-8", **(env or {})},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


def imported_by(*args: str, cwd: Path) -> set[str]:
    done = moodq(*args, code=RUN_AND_TELL, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.rpartition("IMPORTED")[2]))


def plugin(folder: Path, name: str, source: str) -> dict[str, str]:
    """A package with one more subcommand, found the way any installed package's is."""
    (folder / f"{name}_plugin.py").write_text(textwrap.dedent(source), "utf-8")
    info = folder / f"{name}_plugin-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugin\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text(f"[{COMMAND_GROUP}]\n{name} = {name}_plugin:command\n", "utf-8")
    return {"PYTHONPATH": str(folder)}


def test_the_help_lists_every_command_of_every_package(tmp_path: Path) -> None:
    names = {point.name for point in entry_points(group=COMMAND_GROUP)}
    assert {"config", "send", "result", "stats", "worker", "up", "demo"} <= names
    done = moodq("--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    listed = {line.split()[0] for line in done.stdout.partition("Commands:")[2].splitlines() if line.strip()}
    assert listed == names


def test_the_help_loads_no_model_library(tmp_path: Path) -> None:
    assert not {"torch", "transformers"} & imported_by("--help", cwd=tmp_path)


@pytest.mark.parametrize("command", ["send", "result", "stats", "config", "tasks"])
def test_the_help_of_a_producers_command_loads_neither_model_nor_queue(command: str, tmp_path: Path) -> None:
    modules = imported_by(command, "--help", cwd=tmp_path)
    assert not {"torch", "transformers", "moodq_worker", "redis", "rq", "rich"} & modules


def test_a_subcommand_of_another_package_is_found(tmp_path: Path) -> None:
    env = plugin(tmp_path, "greet", "import click\n@click.command()\ndef command(): click.echo('hello')\n")
    done = moodq("greet", cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (0, "hello\n"), done.stderr


@pytest.mark.parametrize("when", ["imported", "run"])
def test_a_missing_package_names_the_extra_that_brings_it(when: str, tmp_path: Path) -> None:
    gone = "import sys; sys.modules['torch'] = None"
    body = {"imported": (f"{gone}\nimport torch", "pass"), "run": (gone, "import torch")}[when]
    env = plugin(
        tmp_path, "heavy", f"import click\n{body[0]}\n@click.command()\ndef command():\n    {body[1]}\n"
    )
    done = moodq("heavy", cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert done.stderr.startswith("moodq: not_installed: this command needs torch")
    assert "pip install 'moodq[worker]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_help_still_lists_a_command_whose_extra_is_missing(tmp_path: Path) -> None:
    env = plugin(tmp_path, "heavy", "import sys; sys.modules['torch'] = None\nimport torch\n")
    done = moodq("--help", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "pip install 'moodq[worker]'" in " ".join(done.stdout.partition("heavy")[2].split())
    assert "config" in done.stdout


def test_a_broken_import_is_not_taken_for_a_missing_extra(tmp_path: Path) -> None:
    env = plugin(tmp_path, "broken", "import no_such_module_anywhere\n")
    done = moodq("broken", cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert "no_such_module_anywhere" in done.stderr
    with pytest.raises(ModuleNotFoundError):
        missing_package(ModuleNotFoundError("x", name="moodq_worker.nothing"))


@pytest.mark.parametrize("package", EXTRA_OF)
def test_every_package_of_an_extra_is_known_by_name(package: str) -> None:
    error = missing_package(ModuleNotFoundError("x", name=f"{package}.inner"))
    assert error.code == ErrorCode.NOT_INSTALLED
    assert f"moodq[{EXTRA_OF[package]}]" in error.message


def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = moodq("config", cwd=tmp_path, env={"MOODQ_THREADS": "many"})
    assert done.returncode == 2
    assert done.stderr.startswith("moodq: config_invalid: MOODQ_THREADS")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("args", [["nonsense"], ["--nonsense"], ["config", "--nonsense"]])
def test_wrong_usage_is_exit_code_2(args: list[str], tmp_path: Path) -> None:
    done = moodq(*args, cwd=tmp_path)
    assert done.returncode == 2
    assert "nonsense" in done.stderr


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("click.get_current_context().exit(3)", 3),
        ("raise BadInput('x')", 3),
        ("raise Unavailable('x')", 4),
        ("raise ModelError('x')", 5),
        ("raise WaitTimeout('x')", 6),
        ("raise KeyboardInterrupt", 130),
        ("raise RuntimeError('x')", 1),
        ("return None", 0),
    ],
)
def test_a_command_ends_with_the_exit_code_of_what_happened(body: str, code: int, tmp_path: Path) -> None:
    source = (
        f"import click\nfrom moodq_config.errors import *\n@click.command()\ndef command():\n    {body}\n"
    )
    assert moodq("ends", cwd=tmp_path, env=plugin(tmp_path, "ends", source)).returncode == code


def test_the_version_is_the_distributions(tmp_path: Path) -> None:
    done = moodq("--version", cwd=tmp_path)
    assert done.returncode == 0
    assert "0.1.0" in done.stdout
