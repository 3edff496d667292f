"""``make images-check``: run a Dockerfile's steps without Docker, in a root file system made by debootstrap.

Needs root, debootstrap and a Debian mirror. Each stage begins as a copy of the base; the gateway is
then tried as the image would run: as its user, read-only but for /tmp, with its own health check. The base is
Debian's Python and not the one the file names: what is tried are the steps. Build arguments come from the
environment, as TORCH_INDEX.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
PACKAGES = "python3,python3-venv,python-is-python3,ca-certificates"
#: Of this machine, that package clients may reach their registries.
BORROWED = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt")
HEALTHY_WITHIN_S = 60.0


@dataclass
class Stage:
    """One ``FROM`` and what followed."""

    root: Path
    folder: str = "/"
    user: str = "0:0"
    env: dict[str, str] = field(default_factory=dict)
    health: str = ""
    command: dict[str, list[str]] = field(default_factory=dict)

    def run(self, command: list[str], *, user: str = "0:0") -> subprocess.CompletedProcess[bytes]:
        inside = [
            "chroot",
            f"--userspec={user}",
            str(self.root),
            "/bin/sh",
            "-c",
            f'cd {self.folder}; exec "$@"',
            "sh",
        ]
        return subprocess.run([*inside, *command], env=self.all_env(), check=True)

    def all_env(self) -> dict[str, str]:
        pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
        return {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin", "HOME": "/root", **pip, **self.env}


def build(file: Path, base: Path, work: Path) -> Stage:
    """Run every step; returns the last stage."""
    stages: dict[str, Stage] = {}
    stage = Stage(base)
    with file.open("rb") as stream:
        steps = DockerfileParser(fileobj=stream).structure
    for step in steps:
        instruction, value = step["instruction"], step["value"]
        if instruction == "FROM":
            stage = Stage(work / f"stage-{len(stages)}")
            subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(stage.root)], check=True)
            stages[value.rpartition(" ")[2]] = stage
        elif instruction == "COMMENT" or not stages:
            continue
        elif instruction == "RUN":
            print("RUN", value[:100], flush=True)
            stage.run(["/bin/sh", "-ec", value])
        elif instruction == "COPY":
            copy(stage, value, stages)
        elif instruction in ("ARG", "ENV"):
            for name, given in re.findall(r"(\w+)=(\S*)", value):
                given = os.environ.get(name, given) if instruction == "ARG" else given
                stage.env[name] = re.sub(r"\$\{?(\w+)\}?", partial(_value, stage.all_env()), given)
        elif instruction == "WORKDIR":
            stage.folder = value
            (stage.root / value.lstrip("/")).mkdir(parents=True, exist_ok=True)
        elif instruction == "USER":
            stage.user = value
        elif instruction == "HEALTHCHECK":
            stage.health = value.partition("CMD ")[2]
        elif instruction in ("ENTRYPOINT", "CMD"):
            stage.command[instruction] = json.loads(value)
    return stage


def _value(env: dict[str, str], name: re.Match[str]) -> str:
    return env.get(name[1], "")


def copy(stage: Stage, value: str, stages: dict[str, Stage]) -> None:
    words = value.split()
    options = dict(word.removeprefix("--").split("=") for word in words if word.startswith("--"))
    *sources, target = [word for word in words if not word.startswith("--")]
    context = stages[options["from"]].root if "from" in options else ROOT
    into = stage.root / (target if target.startswith("/") else f"{stage.folder}/{target}").lstrip("/")
    for source in sources:
        found = context / source.lstrip("/")
        if found.is_dir():
            shutil.copytree(found, into, symlinks=True, dirs_exist_ok=True)
        else:
            place = into / found.name if target.endswith("/") else into
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(found, place)
        if "chown" in options:
            subprocess.run(["chown", "-R", options["chown"], str(into)], check=True)


def try_out(stage: Stage, settings: dict[str, str]) -> None:
    """Start what the image starts, as its user, read-only; wait until its health check is content."""
    stage.env |= settings
    command = stage.command["ENTRYPOINT"] + stage.command["CMD"]
    outside = 'mount --bind "$0" "$0"; mount -o remount,bind,ro "$0"; mount -t tmpfs tmpfs "$0/tmp"; '
    inside = f'exec chroot --userspec={stage.user} "$0" /bin/sh -c \'cd {stage.folder}; exec "$@"\' sh "$@"'
    process = subprocess.Popen(
        ["unshare", "--mount", "/bin/sh", "-ec", outside + inside, str(stage.root), *command],
        env=stage.all_env(),
    )
    try:
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while True:
            try:
                stage.run(json.loads(stage.health), user=stage.user)
                break
            except subprocess.CalledProcessError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise
                time.sleep(1)
        print("healthy, read-only, as", stage.user, flush=True)
    finally:
        process.terminate()
        code = process.wait(60)
    if code != 0:
        raise SystemExit(f"{command} ended with {code}")


def main(names: list[str]) -> int:
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        print("needs root and debootstrap", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="moodq-images-") as folder:
        base = Path(os.environ.get("BASE_ROOT") or f"{folder}/base")
        if not base.is_dir():
            subprocess.run(
                ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", "bookworm", str(base),
                 os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")],
                check=True, stdout=subprocess.DEVNULL,
            )  # fmt: skip
        for one in filter(os.path.exists, BORROWED):
            subprocess.run(["cp", "-L", "--remove-destination", "--parents", one, str(base)], check=True)
        for name in names:
            work = Path(folder) / name
            work.mkdir()
            stage = build(ROOT / "deploy" / "docker" / f"{name}.Dockerfile", base, work)
            settings = {"MOODQ_REDIS_URL": "redis://127.0.0.1:1/0", "MOODQ_GATEWAY_KEYS": f"check={'0' * 64}"}
            if name == "gateway":
                try_out(stage, settings)
            else:
                stage.run(["moodq", "worker", "--help"], user=stage.user)
            print(f"{name}: every step ran", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or ["gateway", "worker"]))
