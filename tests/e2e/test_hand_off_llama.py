"""The hand-off to a real OpenAI-compatible server: llama.cpp's, with the default model's GGUF."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from moodq_config.answers import GeneratedText, LabelScores
from moodq_config.settings import load_settings
from moodq_config.tasks import load_tasks
from moodq_worker.embedded import free_port
from moodq_worker.model_store import sources
from moodq_worker.remote.client import RemoteClient
from moodq_worker.remote.question import Question

NEEDED = ("llama_cpp", "fastapi", "uvicorn", "sse_starlette", "starlette_context")
START_S = 120.0


def gguf() -> Path:
    """The file the default model was made of; ``BENCH_GGUF`` may name another."""
    source = next(source for source in sources().values() if source.parts)
    default = load_settings().data_dir / "bench" / f"{source.name}.gguf"
    return Path(os.environ.get("BENCH_GGUF", default))


@pytest.fixture(scope="module")
def llama_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install 'llama-cpp-python[server]'")
    if not gguf().is_file():
        pytest.skip(f"{gguf()} is not here; `make bench` fetches it, or BENCH_GGUF names one")
    port = free_port()
    log = tmp_path_factory.mktemp("llama") / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "llama_cpp.server", "--model", str(gguf()), "--host", "127.0.0.1",
             "--port", str(port), "--n_ctx", "2048", "--logits_all", "true", "--n_threads", "2"],
            stdout=output, stderr=output,
        )  # fmt: skip
    url = f"http://127.0.0.1:{port}/v1"
    try:
        deadline = time.monotonic() + START_S
        while True:
            assert process.poll() is None, log.read_text()
            try:
                if httpx.get(f"{url}/models").status_code == 200:
                    break
            except httpx.HTTPError:
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture
def client(llama_url: str) -> Iterator[RemoteClient]:
    found = RemoteClient(llama_url, "local", None, timeout_s=120, logprobs=True)
    yield found
    found.close()


@pytest.mark.real_model
def test_llama_cpp_answers_with_probabilities_and_replies_in_both_languages(client: RemoteClient) -> None:
    tasks = load_tasks()
    for lang, text, expected in (
        ("zh", "味道很差，等了两个小时，太失望了", "negative"),
        ("en", "The crew was friendly and we landed early. Great flight!", "positive"),
    ):
        question = Question(tasks["sentiment"], lang, text)  # type: ignore[arg-type]
        found = question.answer(client.complete(question.messages(), question.max_tokens, logprobs=True))
        assert isinstance(found, LabelScores), found
        assert found.label == expected
        assert found.probability > 0.5
    question = Question(tasks["reply"], "zh", "包裹还没到，我很着急", "negative")
    reply = question.answer(client.complete(question.messages(), question.max_tokens, logprobs=False))
    assert isinstance(reply, GeneratedText)
    assert reply.tokens > 0
