"""``docs/examples``: the very files, run as their first lines say, against a real server and worker."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
TIMEOUT_S = 120.0


def run(*command: str | Path, cwd: Path, redis_url: str) -> list[str]:
    """The lines that a program prints; it must end with 0 and say nothing else."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**inherited, "MOODQ_REDIS_URL": redis_url, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.usefixtures("fake_worker")
def test_python_messages(redis_url: str, tmp_path: Path) -> None:
    lines = run(sys.executable, EXAMPLES / "python" / "messages.py", cwd=tmp_path, redis_url=redis_url)
    text = "今天的实验终于成功了，太棒了！"
    assert lines[:3] == ["label: positive", f"echo: {text}", f"positive 0.90: echo: {text}"]
    assert sorted(lines[3:6]) == ["0 positive", "1 positive", "2 positive"]
    assert lines[6] in ("cancelled: True", "cancelled: False"), "a worker may have been faster"
    assert len(lines) == 7


@pytest.mark.usefixtures("fake_worker")
def test_python_service(redis_url: str, tmp_path: Path) -> None:
    lines = run(sys.executable, EXAMPLES / "python" / "service.py", cwd=tmp_path, redis_url=redis_url)
    assert lines == [
        "200 positive 太棒了！",
        "200 positive My parcel arrived broken.",
        "400 empty_text ",
        "200 positive order 0 is here",
        "echo: 等了两个小时还没到，差评",
        "250 reviews",
    ]


@pytest.fixture(scope="session")
def node_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with what it needs from npm."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("node") / "example"
    shutil.copytree(EXAMPLES / "node", folder, ignore=shutil.ignore_patterns("node_modules"))
    options = ["--no-audit", "--no-fund", "--no-package-lock", "--loglevel=error"]
    done = subprocess.run(
        [npm, "install", *options], cwd=folder, capture_output=True, encoding="utf-8", timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.usefixtures("fake_worker")
def test_node_messages(redis_url: str, node_folder: Path) -> None:
    *lines, last = run("node", "messages.mjs", cwd=node_folder, redis_url=redis_url)
    assert last in ("cancelled: true", "cancelled: false"), "a worker may have been faster"
    assert lines == [
        "label: positive",
        "echo: 今天的实验终于成功了，太棒了！",
        "positive 0.9",
        "positive",
        "empty_text",
        "negative",
    ]


def test_node_waits_no_longer_than_it_was_told(redis_url: str, node_folder: Path) -> None:
    program = node_folder / "late.mjs"
    program.write_text(
        'import { Moodq } from "./moodq.mjs";\n'
        "const moodq = await Moodq.connect();\n"
        'const id = await moodq.submit("x", { id: "late" });\n'
        'await moodq.submit("x", { id: "late" });\n'
        "await moodq.wait(id, 300).catch((error) => console.log(error.message));\n"
        'const waiting = await moodq.redis.lLen("rq:queue:interactive");\n'
        "console.log(waiting, await moodq.cancel(id), await moodq.cancel(id));\n"
        "console.log((await moodq.wait(id)).error.code);\n"
        "await moodq.close();\n",
        "utf-8",
    )
    assert run("node", program, cwd=node_folder, redis_url=redis_url) == [
        "no result for late within 300 ms",
        "1 true false",
        "cancelled",
    ]
