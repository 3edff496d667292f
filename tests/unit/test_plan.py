"""``moodq plan``: its simulation against what is known of queues, and its answers at the command line."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from moodq_config.contracts import ModelRef
from moodq_config.errors import BadInput, ConfigError
from moodq_config.settings import load_settings
from moodq_config.tasks import load_tasks
from moodq_worker.capacity.cli import EXIT_IMPOSSIBLE, command
from moodq_worker.capacity.costs import Costs, PassCost, WriteCost, costs_file, read_costs, write_costs
from moodq_worker.capacity.measure import _line, measure
from moodq_worker.capacity.planning import Question, lacking, plan
from moodq_worker.capacity.simulate import AROUND_S, JOB_S, TextCost, most_per_s, simulate
from moodq_worker.capacity.work import work_of
from moodq_worker.engine_fake import Cost, FakeEngine

TASKS = load_tasks()
PASS = PassCost(pass_s=0.04, token_s=0.0004, suffix_tokens=5)
WRITE = WriteCost(
    join=PassCost(pass_s=0.04, token_s=0.0004, suffix_tokens=5),
    step_s=0.05,
    row_s=0.003,
    lengths=(12, 20, 28),
)
COSTS = Costs(
    measured_at="2026-01-02T03:04:05Z",
    machine="a processor, 2 CPUs",
    model=ModelRef(id="some", revision="1", precision="bf16"),
    device="cpu",
    threads=2,
    rss_bytes=1_500 * 2**20,
    batch_tokens=512,
    text_tokens=26.0,
    passes={"sentiment": PASS},
    writes={"reply": WRITE},
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOODQ_DATA_DIR", str(tmp_path / "data"))


def asked(per_s: float, p95_s: float, *tasks: str, **more: Any) -> Question:
    return Question(per_s, tasks or ("sentiment",), p95_s, text_tokens=more.pop("tokens", 26.0), **more)


def planned(question: Question, costs: Costs = COSTS) -> Any:
    return plan(question, costs, TASKS, load_settings())


def waits_less_than(seconds: float, per_s: float, service_s: float) -> float:
    """Share of the customers of an M/D/1 queue that wait less (Erlang's formula)."""
    load = per_s * service_s
    terms = []
    for k in range(int(seconds / service_s) + 1):
        x = per_s * (k * service_s - seconds)
        terms.append(x**k / math.factorial(k) * math.exp(-x))
    return (1 - load) * sum(terms)


@pytest.mark.parametrize("load", [0.3, 0.6, 0.8])
def test_texts_that_run_one_by_one_wait_as_in_the_queue_of_the_textbooks(load: float) -> None:
    # A batch has room for one text, so this is the M/D/1 queue.
    cost = TextCost(26.0, (PassCost(pass_s=0.1, token_s=0.0, suffix_tokens=5),), (), 31, 32)
    service_s = 0.1 + JOB_S
    found = simulate(cost, load / service_s, 40_000)
    assert found.busy == pytest.approx(load, rel=0.03)
    waited = found.p95_s - AROUND_S - service_s
    assert waits_less_than(waited, load / service_s, service_s) == pytest.approx(0.95, abs=0.01)


def test_a_worker_that_always_has_enough_runs_full_batches() -> None:
    cost = TextCost(27.0, (PASS,), (), 512, 32)
    batch = 512 // 32
    assert most_per_s(cost, 3_000) == pytest.approx(
        batch / (PASS.seconds(batch, 27.0) + batch * JOB_S), rel=0.02
    )


def test_replies_share_their_steps_up_to_the_most_that_run_at_once() -> None:
    def most(at_once: int) -> float:
        return most_per_s(TextCost(26.0, (), (WRITE,), 512, at_once), 2_000)

    alone = 20 * (WRITE.step_s + WRITE.row_s) + WRITE.join.seconds(1, 26.0)
    assert most(1) == pytest.approx(1 / alone, rel=0.05)
    assert 4 * most(1) < most(8) < most(32)


def test_more_texts_or_less_time_take_more_workers() -> None:
    few, many = planned(asked(50, 1.0)), planned(asked(500, 1.0))
    assert 1 <= few.workers < many.workers
    assert planned(asked(500, 0.12)).workers > many.workers
    for found in (few, many):
        assert found.possible
        assert found.outcome.p95_s <= 1.0
        assert found.question.per_s / found.workers < found.most_per_worker_s


def test_a_plan_that_no_number_of_workers_meets_says_why() -> None:
    found = planned(asked(1, 1.0, "sentiment", "reply"))
    assert not found.possible
    assert "max_new_tokens" in found.reason
    assert found.alone_s > 1.0


def test_what_redis_lacks_is_told_with_the_setting_that_mends_it() -> None:
    found = planned(asked(2_000, 1.0))
    [memory] = [line for line in lacking(found) if "MOODQ_MAX_REDIS_MB" in line]
    assert f"MOODQ_MAX_REDIS_MB={math.ceil(found.redis.needed_mb)}" in memory
    assert not lacking(planned(asked(5, 1.0)))
    assert planned(asked(2_000, 1.0, items_per_job=100)).redis.busy < found.redis.busy / 3


def test_a_text_is_read_as_the_worker_reads_it() -> None:
    assert work_of(TASKS, ["reply"]).passes == (("sentiment",),)
    assert work_of(TASKS, ["sentiment", "reply", "reply"]).writes == ("reply",)
    with pytest.raises(BadInput, match="known: "):
        work_of(TASKS, ["nonsense"])


def test_what_was_not_measured_is_not_guessed() -> None:
    with pytest.raises(ConfigError, match=r"cost of summary was not measured.*--measure --tasks summary"):
        planned(asked(1, 1.0, "summary"))
    with pytest.raises(ConfigError, match="depends on what comes with each text"):
        measure(FakeEngine(), TASKS, ["topic"], 512, lambda line: None)


def test_measuring_finds_what_the_engine_sleeps() -> None:
    slept = Cost(pass_s=0.02, token_s=0.0002, step_s=0.02, row_s=0.002)
    engine = FakeEngine(slept)
    engine.use_tasks(TASKS)
    for _ in range(3):  # other work on the machine can spoil a run
        found = measure(engine, TASKS, ["sentiment", "reply"], 512, lambda line: None)
        label, write = found.passes["sentiment"], found.writes["reply"]
        # The line is over new tokens, of which the fake engine does not count the five after each text.
        pairs = [(label.pass_s, 0.02), (label.token_s, 0.0002), (write.step_s, 0.02), (write.row_s, 0.002)]
        if all(is_near == pytest.approx(cost, rel=0.4) for is_near, cost in pairs):
            assert write.lengths
            return
    pytest.fail(f"{found.passes}, {found.writes}")


def test_a_line_never_says_that_work_costs_less_than_nothing() -> None:
    assert _line([(1, 0.1), (2, 0.2), (4, 0.4)]) == pytest.approx((0.0, 0.1), abs=1e-9)
    assert _line([(1, 0.5), (2, 0.4), (4, 0.3)]) == pytest.approx((0.4, 0.0))
    assert _line([(10, 0.1), (20, 0.9)])[0] >= 0


def test_costs_of_other_tasks_are_kept_and_those_of_another_model_are_not(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "costs.json"
    write_costs(path, COSTS)
    more = COSTS.model_copy(update={"passes": {"urgency": PASS}, "writes": {}})
    assert set(write_costs(path, more).passes) == {"sentiment", "urgency"}
    assert read_costs(path).writes == COSTS.writes
    other = more.model_copy(update={"threads": 8})
    assert set(write_costs(path, other).passes) == {"urgency"}


def run(*words: str) -> Result:
    return CliRunner().invoke(command, words)


def test_without_measured_costs_it_says_how_to_get_them() -> None:
    found = run("--rate", "50/s")
    assert isinstance(found.exception, ConfigError)
    assert "moodq plan --measure" in found.exception.message


def test_measured_costs_answer_for_people_and_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOODQ_ENGINE", "fake")
    measured = run("--measure", "--tasks", "sentiment")
    assert measured.exit_code == 0, measured.output
    assert "sentiment: a pass takes" in measured.output
    told = run("--rate", "3000/min", "--tasks", "sentiment", "--p95", "500ms")
    assert told.exit_code == 0, told.output
    for word in ("workers", "latency", "memory", "Redis", "assumed:"):
        assert word in told.output
    found = json.loads(run("--rate", "3000/min", "--tasks", "sentiment", "--p95", "500ms", "--json").output)
    assert found["possible"] is True
    assert found["question"]["per_s"] == 50.0
    assert found["question"]["p95_s"] == 0.5


def test_a_target_that_cannot_be_met_has_an_exit_code_of_its_own() -> None:
    write_costs(costs_file(load_settings()), COSTS)
    found = run("--rate", "1/s", "--tasks", "sentiment,reply", "--p95", "1s")
    assert found.exit_code == EXIT_IMPOSSIBLE
    assert "cannot be met" in found.output
    assert run("--rate", "1/s", "--tasks", "sentiment,reply", "--p95", "5s").exit_code == 0


@pytest.mark.parametrize(
    "words", [("--rate", "50/fortnight"), ("--rate", "0/s"), (), ("--p95", "soon", "--rate", "1")]
)
def test_wrong_usage_ends_with_2_and_names_the_form(words: tuple[str, ...]) -> None:
    assert run(*words).exit_code == 2
