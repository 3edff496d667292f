"""Requests of every operation of an OpenAPI document, right and wrong, and what came of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    allow_header_conformance,
]
#: Failures that are told in full; the count goes on.
TOLD = 20


@dataclass
class Found:
    """``statuses`` counts answers by operation and status."""

    cases: int = 0
    statuses: dict[str, Counter[int]] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        statuses = {label: dict(counts) for label, counts in self.statuses.items()}
        return {"cases": self.cases, "statuses": statuses, "failures": self.failures}


def run(url: str, cases: int, first_seed: int, say: Callable[[str], None]) -> Found:
    """Send ``cases`` requests at least to the gateway at ``url``, shared among its operations, half of them
    wrong."""
    document = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations: list[Any] = [one.ok() for one in document.get_all_operations()]  # type: ignore[union-attr]
    found = Found()
    while found.cases < cases:  # some operations can be asked in a few ways only
        each = -(-(cases - found.cases) // (2 * len(operations)))
        for operation in operations:
            statuses = found.statuses.setdefault(operation.label, Counter())
            for mode in schemathesis.GenerationMode:
                # An operation without parameters cannot be asked wrongly.
                with suppress(Unsatisfiable):
                    strategy = operation.as_strategy(generation_mode=mode)
                    _ask(strategy, each, first_seed, found, statuses)
        first_seed += 1
    for label, statuses in found.statuses.items():
        say(f"{label}: {dict(statuses)}")
    return found


def _ask(strategy: Any, count: int, first_seed: int, found: Found, statuses: Counter[int]) -> None:
    @seed(first_seed)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=strategy)
    def one(case: Any) -> None:
        answer = case.call(timeout=30)
        found.cases += 1
        statuses[answer.status_code] += 1
        try:
            case.validate_response(answer, checks=CHECKS)
        except (FailureGroup, AssertionError) as error:
            if len(found.failures) < TOLD:
                found.failures.append(f"{case.as_curl_command()}: {answer.status_code}: {error}"[:4_000])

    one()
