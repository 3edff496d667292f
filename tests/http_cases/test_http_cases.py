"""Requests made of the gateway's document in their short form; the long one: ``make http-cases``."""

from __future__ import annotations

import pytest

from http_cases.cases import run
from http_cases.processes import gateway_running


@pytest.mark.timeout(240)
def test_no_request_that_the_document_allows_or_forbids_meets_a_fault_or_an_answer_it_does_not_tell() -> None:
    with gateway_running(MOODQ_GATEWAY_MAX_WAIT_S="1") as (url, _):
        found = run(url, 300, 1, print)
    assert found.failures == []
    assert found.cases >= 300
    statuses = {status for counts in found.statuses.values() for status in counts}
    assert {200, 202, 404, 422} <= statuses  # right ones and wrong ones
    assert not [status for status in statuses if status >= 500]
