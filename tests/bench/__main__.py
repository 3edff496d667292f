"""``python -m tests.bench``, from the repository's root: moodq beside its peers, section by section.

Rows that are compared run in turn, on the same texts; a figure is a median. A peer joins the sentiment rows
by being a ``Peer`` (``measure``) in a module of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from moodq_config.errors import MoodqError
from moodq_config.settings import Settings, load_settings

from .article import ArticleWay
from .child import Child, ChildFailed
from .encoder import Encoder
from .engine import BareEngine
from .figures import Figures
from .flood import flood
from .four_tasks import TASKS_FILE, four_tasks
from .growth import growth
from .latency import during_replies, interactive
from .llama import LlamaLabels
from .log_cache import log_cache
from .machine import Machine
from .measure import Peer
from .memory import memory
from .page import write_page
from .peers import llama_child
from .queue_side import pipelines, queue_side
from .replies import TOGETHER, replies
from .report import LATEST, print_figures, print_rows, write_json
from .sentiment import Comparison, sentiment
from .service import OneAtATime, Service, UnderLoad
from .texts import TextPool, load_texts

#: The queue comes before any model is loaded: it is to be measured alone.
SECTIONS = (
    *("queue", "sentiment", "interactive", "replies", "labels-during-replies", "four-tasks", "growth"),
    *("memory", "flood", "pipelines", "log-cache"),
)


@dataclass(frozen=True, slots=True)
class Plan:
    items: int
    rounds: int
    sections: tuple[str, ...]
    quick: bool


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--items",
    default=120,
    show_default=True,
    type=click.IntRange(2),
    help="Texts in a round; rows under load take 5 times as many.",
)
@click.option(
    "--rounds", default=3, show_default=True, type=click.IntRange(1), help="Rounds; each takes new texts."
)
@click.option("--only", "sections", multiple=True, type=click.Choice(SECTIONS),
              help="This section; may be repeated. Default: all.")  # fmt: skip
@click.option(
    "--texts", "paths", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of label<TAB>text lines; may be repeated. Default: ../shared/data, or the demo's messages.",
)  # fmt: skip
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="A model folder. Default: what MOODQ_MODEL says.")  # fmt: skip
@click.option("--quick", is_flag=True, help="Few items, one round: to see that it works, not to measure.")
def main(
    items: int,
    rounds: int,
    sections: tuple[str, ...],
    paths: tuple[Path, ...],
    model: Path | None,
    quick: bool,
) -> None:
    """Measure moodq beside the article's way, llama.cpp, Transformers and an encoder, on the same texts.

    Prints tables and writes build/bench/latest.json; a whole run also writes docs/performance.md.
    """
    chosen = sections or SECTIONS
    plan = Plan(8, 1, chosen, quick) if quick else Plan(items, rounds, chosen, quick)
    console = Console()
    try:
        document = bench(console, load_texts(paths), plan, model)
    except MoodqError as error:
        console.print(f"bench: {error}", style="red", markup=False)
        sys.exit(error.exit_code)
    except (ChildFailed, RuntimeError, ValueError) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        sys.exit(1)
    write_json(document)
    console.print(f"written: {LATEST}")
    if not quick and set(chosen) == set(SECTIONS):
        console.print(f"written: {write_page(document)}")


def bench(console: Console, pool: TextPool, plan: Plan, model: Path | None) -> dict[str, Any]:
    """Run the sections, print the tables, and return what is to be written."""
    settings = load_settings()
    folder = str(model.resolve() if model else default_model_folder(settings))
    found = Figures()

    def measure(name: str, section: Callable[[], None]) -> None:
        if name not in plan.sections:
            return
        console.rule(name)
        before = len(found.tables)
        try:
            section()
        except (ChildFailed, RuntimeError) as error:
            # One section's figures are not worth the others'.
            found.left_out.append(f"section {name}: {error}")
            console.print(f"bench: section {name}: {error}", style="red", markup=False)
        print_figures(console, found, found.tables[before:])

    measure("queue", lambda: queue_side(LATEST.parent, plan.rounds, found))
    with ExitStack() as stack:

        def kept(child: Any) -> Any:
            return stack.enter_context(closing(child))

        console.print(f"texts: {pool.origin}; {plan.items} in each of {plan.rounds} rounds", highlight=False)
        services = {"auto": start_service(stack, folder, {})}
        ref = services["auto"].model()
        services = {ref.precision: services["auto"]}
        try:
            services["int8"] = start_service(stack, folder, {"MOODQ_PRECISION": "int8"})
        except RuntimeError as error:
            found.left_out.append(f"moodq int8: {str(error).splitlines()[-1]}")
        console.print(f"worker: {ref.id}, revision {ref.revision}, {ref.precision}", highlight=False)
        peak = kept(Child("machine:MatmulPeak"))
        engine = kept(BareEngine(folder, ref.precision))
        article = kept(ArticleWay(folder, "bf16"))
        llama = llama_child(settings, found, click.echo)
        if llama is not None:
            kept(llama)
        machine = Machine(peak.call("threads"), article.body_parameters(), floor_precision(ref.precision))
        machine.measure(peak)
        client = services[ref.precision].client
        compared: list[Comparison] = []

        def compare_sentiment() -> None:
            peers: list[Peer] = [kept(ArticleWay(folder, "fp32")), article, kept(Encoder(folder))]
            if llama is not None:
                peers.append(LlamaLabels(llama, engine))
            peers += [OneAtATime(client), UnderLoad(client)]
            if "int8" in services:
                peers.append(UnderLoad(services["int8"].client, "int8"))
            compared.append(
                sentiment(
                    console, pool, peers, article, machine, peak,
                    items=plan.items, rounds=plan.rounds, into=found,
                )
            )  # fmt: skip
            print_rows(console, machine, list(compared[0].rows.values()), new_tokens=compared[0].new_tokens)

        def compare_replies() -> None:
            transformers = kept(Child("generate:GenerateModel", model=folder))
            clients = {precision: service.client for precision, service in services.items()}
            # Two rounds: the slowest peer takes a minute for its 32 replies.
            rounds = min(2, plan.rounds)
            replies(clients, engine, llama, transformers, pool.slice(0, TOGETHER), rounds, found)

        def compare_tasks() -> None:
            asking = start_service(stack, folder, {"MOODQ_TASKS_FILE": str(TASKS_FILE)})
            four_tasks(asking.client, pool.slice(0, plan.items), plan.rounds, found)

        sections: dict[str, Callable[[], None]] = {
            "sentiment": compare_sentiment,
            "interactive": lambda: interactive(client, engine, pool.slice(0, plan.items), found),
            "replies": compare_replies,
            "labels-during-replies": lambda: during_replies(
                client, pool.slice(1, plan.items), pool.slice(0, TOGETHER), found
            ),
            "four-tasks": compare_tasks,
            "growth": lambda: growth(
                client, engine, pool.slice(0, plan.items), machine.floor_tokens_per_s, found
            ),
            "memory": lambda: memory(services, pool.slice(2, plan.items), found),
            "flood": lambda: flood(services[ref.precision], pool.slice(3, 200), found),
            "pipelines": lambda: pipelines(
                client, folder, ref.precision, pool.slice(4, 5 * plan.items), min(2, plan.rounds), found
            ),
            "log-cache": lambda: log_cache(
                lambda stack, environment: start_service(stack, folder, environment),
                min(2, plan.rounds),
                found,
            ),
        }
        for name, section in sections.items():
            measure(name, section)
    console.rule("ratios")
    print_figures(console, found, [], ratios=True)
    tokens = compared[0].new_tokens if compared else 0.0
    floor = machine.floor_items_per_s(tokens) if tokens else 0.0
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": plan.quick,
        "texts": pool.origin,
        "items_per_round": plan.items,
        "rounds": plan.rounds,
        "model": ref.model_dump(),
        "machine": machine.as_json(tokens),
        "rows": [row.as_json(floor) for row in compared[0].rows.values()] if compared else [],
        **found.as_json(),
    }


def start_service(stack: ExitStack, folder: str, environment: dict[str, str]) -> Service:
    name = "-".join(["worker", *environment.values()]).replace("/", "_")[-60:]
    service = stack.enter_context(
        Service(log=LATEST.parent / f"{name}.log", environment={"MOODQ_MODEL": folder, **environment})
    )
    service.wait_ready()
    return service


def floor_precision(precision: str) -> str:
    """The peak the floor is taken from: the worker's own precision, bf16 for what has no peak here."""
    return precision if precision in ("fp32", "bf16") else "bf16"


def default_model_folder(settings: Settings) -> Path:
    """The converted model the settings name; fetched and converted first when it is not there yet."""
    from moodq_worker.model_store import resolve

    return resolve(settings, click.echo).path


if __name__ == "__main__":
    main()
