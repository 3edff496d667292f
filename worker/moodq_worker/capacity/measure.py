"""Asks an engine what its passes and decode steps cost, by running some and fitting a line."""

from __future__ import annotations

import platform
import statistics
import time
import tomllib
from collections.abc import Callable, Iterator, Sequence
from importlib import resources
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from moodq_config.errors import ConfigError
from moodq_config.tasks import ChooseTask, Lang, MultilabelTask, RerankTask, TaskSet, WriteTask, detect_lang
from moodq_worker.capacity.costs import Costs, PassCost, WriteCost
from moodq_worker.capacity.work import work_of
from moodq_worker.engine import Engine, Generation
from moodq_worker.replies import SUFFIX_TOKENS

#: A figure is the median of so many runs, after one that is not counted.
RUNS = 3
#: Parts of the token budget of the label passes that are measured.
PARTS = (0.0, 0.25, 0.5, 1.0)
#: Decode steps measured at each number of rows.
STEPS = 6
ROWS = (1, 4, 16)

Say = Callable[[str], None]


def measure(engine: Engine, tasks: TaskSet, names: Sequence[str], budget: int, say: Say) -> Costs:
    """Costs of texts with the tasks ``names``. ``engine`` has ``tasks`` in force and is warm; ``budget`` is
    its batches' new tokens. Raises ``ConfigError`` for a task whose cost depends on more than the text."""
    work = work_of(tasks, names)
    for name in {name for group in work.passes for name in group}:
        if isinstance(tasks[name], ChooseTask | RerankTask):
            raise ConfigError(
                f"task {name}: its cost depends on what comes with each text; it is not planned"
            )
    texts = _texts(engine)
    passes, writes = {}, {}
    for group in work.passes:
        say(f"passes of {'+'.join(group)}")
        passes["+".join(group)] = _pass_cost(engine, tasks, group, budget, texts)
    for name in work.writes:
        say(f"replies of {name}")
        writes[name] = _write_cost(engine, tasks, name, budget, texts)
    info = engine.info
    return Costs(
        measured_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        machine=_machine(),
        model=info.ref,
        device=info.device,
        threads=info.threads,
        rss_bytes=psutil.Process().memory_info().rss,
        batch_tokens=budget,
        text_tokens=round(statistics.mean(len(text) for some in texts.values() for text in some), 1),
        passes=passes,
        writes=writes,
    )


def _texts(engine: Engine) -> dict[Lang, list[list[int]]]:
    """The shipped messages, by language."""
    source = resources.files("moodq_worker").joinpath("demo_messages.toml").read_text("utf-8")
    found: dict[Lang, list[list[int]]] = {}
    for message in tomllib.loads(source)["messages"]:
        found.setdefault(detect_lang(message["text"]), []).extend(engine.encode([message["text"]]))
    return found


def _pass_cost(
    engine: Engine, tasks: TaskSet, group: Sequence[str], budget: int, texts: dict[Lang, list[list[int]]]
) -> PassCost:
    asked = sum(len(task.labels) if isinstance(task := tasks[name], MultilabelTask) else 1 for name in group)
    suffix = SUFFIX_TOKENS * asked
    points = []
    for lang, some in texts.items():
        for part in PARTS:
            rows = list(_filled(some, suffix, int(budget * part)))
            tokens = sum(map(len, rows)) + suffix * len(rows)
            points.append((tokens, _median(lambda: engine.label(group, lang, rows))))  # noqa: B023 - called here
    pass_s, token_s = _line(points)
    return PassCost(pass_s=pass_s, token_s=token_s, suffix_tokens=suffix)


def _write_cost(
    engine: Engine, tasks: TaskSet, name: str, budget: int, texts: dict[Lang, list[list[int]]]
) -> WriteCost:
    keys = iter(range(-1, -1_000_000, -1))
    joins: list[tuple[float, float]] = []
    steps: list[tuple[float, float]] = []
    lengths: list[int] = []
    for lang, some in texts.items():
        for rows in ROWS:
            for counted in (False, True):
                chosen = [some[number % len(some)] for number in range(rows)]
                tokens = sum(map(len, chosen)) + SUFFIX_TOKENS * rows
                if tokens > budget and rows > ROWS[0]:
                    chosen = chosen[: max(1, budget // (tokens // rows))]
                    tokens = sum(map(len, chosen)) + SUFFIX_TOKENS * len(chosen)
                generations = [_generation(tasks, name, lang, next(keys), text) for text in chosen]
                began = time.perf_counter()
                engine.admit(generations)
                spent = time.perf_counter() - began
                if counted:
                    joins.append((tokens, spent))
                last = counted and rows == ROWS[-1]
                made, taken = _decode(engine, to_the_end=last)
                lengths += made
                if counted:
                    steps.append((len(chosen), statistics.median(taken)))
                for generation in generations:
                    engine.cancel(generation.key)
    pass_s, token_s = _line(joins)
    step_s, row_s = _line(steps)
    join = PassCost(pass_s=pass_s, token_s=token_s, suffix_tokens=SUFFIX_TOKENS)
    return WriteCost(join=join, step_s=step_s, row_s=row_s, lengths=tuple(sorted(lengths)))


def _decode(engine: Engine, *, to_the_end: bool) -> tuple[list[int], list[float]]:
    """Lengths of what ended, and the seconds of the first steps, in which all rows run."""
    lengths: list[int] = []
    taken: list[float] = []
    while engine.running and (to_the_end or len(taken) < STEPS):
        began = time.perf_counter()
        events = engine.step()
        spent = time.perf_counter() - began
        if not lengths and len(taken) < STEPS:
            taken.append(spent)
        lengths += [event.tokens for event in events if event.finish_reason is not None]
    return lengths, taken


def _generation(tasks: TaskSet, name: str, lang: Lang, key: int, text: Sequence[int]) -> Generation:
    task = tasks[name]
    assert isinstance(task, WriteTask)  # noqa: S101 - ``work_of`` says so
    steer = getattr(task.prompt[lang], "steer", None) or {}
    return Generation(key, name, lang, next(iter(steer), None), text)


def _filled(texts: Sequence[Sequence[int]], suffix: int, budget: int) -> Iterator[Sequence[int]]:
    """Texts in turn as long as they fit into ``budget``; at least one."""
    taken = number = 0
    while not number or taken + len(texts[number % len(texts)]) + suffix <= budget:
        taken += len(texts[number % len(texts)]) + suffix
        yield texts[number % len(texts)]
        number += 1


def _median(run: Callable[[], object]) -> float:
    run()
    seconds = []
    for _ in range(RUNS):
        began = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """What each costs beside its size, and for each unit of it; neither below nothing."""
    sizes, seconds = [size for size, _ in points], [taken for _, taken in points]
    if len(set(sizes)) == 1:
        return statistics.mean(seconds), 0.0
    slope, once = statistics.linear_regression(sizes, seconds)
    if once < 0:
        slope, once = statistics.linear_regression(sizes, seconds, proportional=True)
    if slope < 0:
        slope, once = 0.0, statistics.mean(seconds)
    return once, slope


def _machine() -> str:
    """The processor's name where the system tells it, and its cores."""
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = (line.partition(":") for line in info.read_text("utf-8", "replace").splitlines())
        name = next((value.strip() for key, _, value in lines if key.strip() == "model name"), name)
    return f"{name}, {psutil.cpu_count()} CPUs"
