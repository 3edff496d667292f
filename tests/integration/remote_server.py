"""An OpenAI-compatible endpoint for tests: what it answers, and how badly, is up to the test."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class RemoteServer:
    """``answer`` is what it says; ``status``, ``body`` and ``delay_s`` are how it fails."""

    url: str = ""
    answer: str = "negative"
    status: int = 200
    body: bytes | None = None
    delay_s: float = 0.0
    top_logprobs: dict[str, float] = field(default_factory=dict)
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)

    def reply(self) -> bytes:
        if self.body is not None:
            return self.body
        choice: dict[str, Any] = {
            "index": 0,
            "message": {"role": "assistant", "content": self.answer},
            "finish_reason": "stop",
        }
        if self.top_logprobs:
            top = [{"token": token, "logprob": value} for token, value in self.top_logprobs.items()]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        usage = {"prompt_tokens": 40, "completion_tokens": 5, "total_tokens": 45}
        return json.dumps(
            {"id": "1", "object": "chat.completion", "choices": [choice], "usage": usage}
        ).encode()


@contextmanager
def serving() -> Iterator[RemoteServer]:
    """A server on a loopback port."""
    found = RemoteServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            found.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            found.keys.append(self.headers.get("Authorization", ""))
            time.sleep(found.delay_s)
            body = found.reply()
            try:
                self.send_response(found.status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except ConnectionError:
                pass  # the client did not wait

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        found.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield found
        finally:
            server.shutdown()
            thread.join()
