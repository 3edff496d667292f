"""What ``moodq_producer`` offers, and what importing it costs."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import moodq_producer
from moodq_config import contracts, errors

PUBLIC = [
    "AsyncClient",
    "AsyncTicket",
    "BadInput",
    "ChosenLabel",
    "Client",
    "ConfigError",
    "ErrorCode",
    "Event",
    "Extracted",
    "GeneratedText",
    "ItemFailed",
    "LabelScores",
    "LabelSet",
    "MoodqError",
    "QueueFull",
    "Ranking",
    "RateLimited",
    "RequestItem",
    "Result",
    "ResultStatus",
    "Score",
    "Ticket",
    "Unavailable",
    "WaitTimeout",
]


def modules_after(code: str) -> set[str]:
    """Names of the modules a fresh interpreter holds after running ``code``."""
    shown = f"{code}\nimport json, sys\nsys.stderr.write(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", shown], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr))


def test_the_public_names_are_these_and_each_can_be_imported() -> None:
    assert moodq_producer.__all__ == PUBLIC
    assert dir(moodq_producer) == PUBLIC
    for name in PUBLIC:
        assert getattr(moodq_producer, name).__name__ == name


def test_shared_names_are_the_same_objects_as_in_the_config_package() -> None:
    assert moodq_producer.Result is contracts.Result
    assert moodq_producer.QueueFull is errors.QueueFull


def verbs(kind: type) -> dict[str, list[str]]:
    """The public methods of a class with their parameters."""
    return {
        name: list(inspect.signature(member).parameters)
        for name, member in vars(kind).items()
        if not name.startswith("_") and callable(member)
    }


def test_both_clients_have_the_same_verbs_with_the_same_parameters() -> None:
    sync, asynchronous = verbs(moodq_producer.Client), verbs(moodq_producer.AsyncClient)
    assert sync.pop("close") == asynchronous.pop("aclose") == ["self"]
    del asynchronous["connection"]  # what the gateway reads by beside its client
    assert sync == asynchronous
    assert verbs(moodq_producer.Ticket) == verbs(moodq_producer.AsyncTicket)


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Clinet'"):
        _ = moodq_producer.Clinet


def test_using_both_clients_imports_neither_torch_nor_transformers_nor_the_worker() -> None:
    modules = modules_after("from moodq_producer import AsyncClient, Client, Ticket, Result")
    assert {"redis", "rq"} <= modules
    assert not {"torch", "transformers", "moodq_worker"} & modules


def test_importing_the_package_alone_imports_neither_redis_nor_rq() -> None:
    assert not {"redis", "rq"} & modules_after("import moodq_producer")


@pytest.mark.parametrize(
    "command", ["send", "result", "stats", "failed", "cancel", "pause", "resume", "drain"]
)
def test_the_help_of_a_command_loads_nothing_heavy(command: str) -> None:
    code = f"""
from moodq_config.cli import root
root(["{command}", "--help"], standalone_mode=False)
"""
    assert not {"redis", "rq", "rich", "torch", "transformers"} & modules_after(code)
