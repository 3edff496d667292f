"""``docs/examples``: the very files, run as their first lines say, against a real server and worker."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from integration.gateway_server import served

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
TIMEOUT_S = 120.0


def run(*command: str | Path, cwd: Path, redis_url: str, **env: str) -> list[str]:
    """The lines that a program prints; it must end with 0 and say nothing else."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MOODQ_")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**inherited, "MOODQ_REDIS_URL": redis_url, "PYTHONIOENCODING": "utf-8", **env},
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


@pytest.mark.usefixtures("fake_worker")
async def test_curl_messages(redis_url: str, tmp_path: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    script = EXAMPLES / "curl" / "messages.sh"
    async with served(redis_url=redis_url) as (_, url):
        lines = await asyncio.to_thread(run, "sh", script, cwd=tmp_path, redis_url=redis_url, MOODQ_URL=url)
    answers = [json.loads(line) for line in lines if line.startswith("{")]
    waited, first, again, result, batch, rows, cancelled, problem = answers
    assert waited["results"]["reply"]["text"] == "echo: 今天的实验终于成功了，太棒了！"
    assert first == again == {"id": "order-17", "status": "queued"}
    told = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    assert (told[0], told[-1]) == ("label", "done")
    assert "token" in told
    assert result["results"]["reply"]["text"] == "echo: My order is late again."
    assert batch["ids"] == ["row-1", "row-2"]
    assert [(one["index"], one["code"]) for one in batch["rejected"]] == [(1, "empty_text")]
    labels = {id: row["results"]["sentiment"]["label"] for id, row in rows["results"].items()}
    assert labels == {"row-1": "positive", "row-2": "negative"}
    assert cancelled == {"id": "order-17", "status": "ended"}
    assert (problem["status"], problem["code"]) == (422, "unknown_task")


BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", (EXAMPLES.parent / "clients.md").read_text("utf-8"), re.S | re.M
)


@pytest.mark.usefixtures("fake_worker")
@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_programs_of_the_page_about_clients_run(number: int, redis_url: str, tmp_path: Path) -> None:
    """Each in a folder with the files it reads."""
    (tmp_path / "reviews.txt").write_text("好\nso bad\n", "utf-8")
    (tmp_path / "reviews.csv").write_text("review\n好\nso bad\n", "utf-8")
    log = 'logging.warning("so bad")\n' if "MoodqHandler" in BLOCKS[number] else ""
    lines = run(sys.executable, "-c", BLOCKS[number] + log, cwd=tmp_path, redis_url=redis_url)
    if log:
        [tagged] = (tmp_path / "tagged.jsonl").read_text("utf-8").splitlines()
        assert json.loads(tagged)["text"] == "so bad"
    else:
        assert {"positive", "negative"} <= set(" ".join(lines).split())
