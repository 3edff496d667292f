"""Runs an object in a process of its own and calls it over pipes, so that peers share neither memory nor
threads with each other or with the client.

``python -m tests.bench.child MODULE:CLASS ARGUMENTS`` is the other end: one JSON request a line in, one
JSON answer a line out. A child that waits for a request uses no processor time.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from typing import Any

from moodq_worker.openmp import wait_briefly

PACKAGE = "tests.bench"


class ChildFailed(RuntimeError):
    """The child ended or raised; the message carries its words."""


class Child:
    """An object of ``target`` (``module:Class`` within this package), built in a new process."""

    def __init__(self, target: str, **arguments: Any) -> None:
        self._target = target
        self._process = subprocess.Popen(
            [sys.executable, "-m", f"{PACKAGE}.child", target, json.dumps(arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
        )
        self._answer()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method there and return what it returns. Raises ``ChildFailed``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([method, arguments]) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildFailed(f"{self._target} ended with code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ChildFailed(f"{self._target}: {answer['error']}")
        return answer["result"]


def main(target: str, arguments: str) -> None:
    # Libraries print to stdout; the answers get a pipe of their own.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    wait_briefly(os.environ)
    module, _, name = target.partition(":")
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears Ctrl-C and closes the pipe
    hosted = getattr(importlib.import_module(f"{PACKAGE}.{module}"), name)(**json.loads(arguments))
    answer({"result": None})
    for line in sys.stdin:
        method, values = json.loads(line)
        try:
            answer({"result": getattr(hosted, method)(*values)})
        except Exception as error:  # noqa: BLE001 - whatever it is, the parent must hear of it
            answer({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
