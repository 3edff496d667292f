"""Write or check the constraints: every package of a role's extras, with hashes.

``constraints.txt`` is for workers, ``constraints-gateway.txt`` for gateway and exporter, which need no torch.
``python deploy/constraints.py`` resolves pyproject.toml anew (needs uv), ``--check`` says whether the files
still fit it, without the network.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "deploy"
#: The extras of each file.
EXTRAS = {"constraints.txt": ("worker", "embedded"), "constraints-gateway.txt": ("gateway", "exporter")}
#: Not in the file: torch's CPU builds have hashes of their own, and what the CUDA build brings is not wanted.
LEFT_TO_TORCH = re.compile(r"^(torch|triton|cuda-.*|nvidia-.*)$")
WORKER_HEADER = """\
# Every package of moodq[worker,embedded] but torch, for Python 3.11 to 3.13 on Linux and macOS; written by
# deploy/constraints.py. First torch, in this version, from an index that carries its CPU builds (the usual
# one brings CUDA, several GB); then the rest, which pip takes only with these hashes:
#   pip install torch==TORCH_VERSION
#   pip install --require-hashes -r deploy/constraints.txt
#   pip install --no-deps moodq
"""
GATEWAY_HEADER = """\
# Every package of moodq[gateway,exporter], for Python 3.11 to 3.13 on Linux and macOS; written by
# deploy/constraints.py:
#   pip install --require-hashes -r deploy/constraints-gateway.txt
#   pip install --no-deps moodq
"""


def declared(file: str = "constraints.txt") -> dict[str, Requirement]:
    """What pyproject.toml asks for, by name, of the packages in ``file``."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"]]
    for extra in EXTRAS[file]:
        lines += project["optional-dependencies"][extra]
    return {normal(found.name): found for found in map(Requirement, lines)}


def pinned(text: str) -> dict[str, set[Version]]:
    """What the file pins, by name; some names differ by Python version or system."""
    found: dict[str, set[Version]] = {}
    for line in text.splitlines():
        if match := re.match(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)", line):
            found.setdefault(normal(match[1]), set()).add(Version(match[2]))
    return found


def problems(text: str, file: str = "constraints.txt") -> list[str]:
    """What does not fit between ``text`` and pyproject.toml; empty when all does."""
    pins, told = pinned(text), []
    for name, requirement in declared(file).items():
        if LEFT_TO_TORCH.match(name):
            if f"torch=={next(iter(requirement.specifier)).version}" not in text:
                told.append(f"the header names another torch than {requirement}")
        elif name not in pins:
            told.append(f"{name} is missing")
        else:
            told += [
                f"{name}=={one} is not {requirement}"
                for one in pins[name]
                if one not in requirement.specifier
            ]
    blocks = re.split(r"\n(?=[A-Za-z0-9])", re.sub(r"(?m)^#.*\n", "", text).strip())
    told += [f"no hash: {block.splitlines()[0]}" for block in blocks if "--hash=sha256:" not in block]
    if re.search(r"https?://|--(extra-)?index-url|--find-links", text):
        told.append("the file names an index")
    return told


def resolve(file: str) -> str:
    """The text of ``file``, from the newest versions that pyproject.toml allows."""
    command = ["uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version", "3.11",
               "--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url", "--quiet",
               *(f"--extra={extra}" for extra in EXTRAS[file])]  # fmt: skip
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)
    blocks = re.split(r"\n(?=[A-Za-z0-9])", done.stdout.strip())
    kept = [block for block in blocks if not LEFT_TO_TORCH.match(normal(re.split(r"[\[=]", block)[0]))]
    return header(file) + "\n".join(kept) + "\n"


def header(file: str) -> str:
    torch = declared(file).get("torch")
    if torch is None:
        return GATEWAY_HEADER
    return WORKER_HEADER.replace("TORCH_VERSION", next(iter(torch.specifier)).version)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    told = []
    for file in EXTRAS:
        path = FOLDER / file
        if "--check" not in sys.argv[1:]:
            path.write_text(resolve(file), "utf-8")
        told += [f"deploy/{file}: {line}" for line in problems(path.read_text("utf-8"), file)]
    for line in told:
        sys.stderr.write(line + "\n")
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
