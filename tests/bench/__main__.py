"""``python -m tests.bench``, from the repository's root: moodq beside the article's way.

Rows are run one after the other, round by round, each time on the same texts; a figure is the median of the
rounds. A peer joins by being a ``Peer`` (``measure``) in a module of its own, built in ``peers``.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from moodq_config.errors import MoodqError
from moodq_config.settings import load_settings

from .article import ArticleWay
from .child import Child, ChildFailed
from .machine import Machine
from .measure import Peer, Row, ratio
from .report import LATEST, print_tables, write_json
from .service import OneAtATime, Service, UnderLoad
from .texts import Labelled, TextPool, load_texts

#: Seconds between rows, so that the threads of the one before have gone to sleep.
PAUSE_S = 0.5
WARM_UP_ITEMS = 4
#: Numerator and denominator of each ratio, by the rows' names.
RATIOS = {
    "sentiment_vs_article_fp32": ("moodq, under load", "article's way, fp32"),
    "sentiment_vs_article_bf16": ("moodq, under load", "article's way, bf16"),
    "one_at_a_time_vs_article_fp32": ("moodq, one at a time", "article's way, fp32"),
    "one_at_a_time_vs_article_bf16": ("moodq, one at a time", "article's way, bf16"),
}


@dataclass(frozen=True, slots=True)
class Plan:
    items: int
    rounds: int
    load_passes: int


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--items", default=120, show_default=True, type=click.IntRange(2), help="Texts in a round.")
@click.option(
    "--rounds", default=3, show_default=True, type=click.IntRange(1), help="Rounds; each takes new texts."
)
@click.option(
    "--texts", "paths", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file of label<TAB>text lines; may be repeated. Default: ../shared/data, or the demo's messages.",
)  # fmt: skip
@click.option("--model", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="A model folder. Default: what MOODQ_MODEL says.")  # fmt: skip
@click.option("--quick", is_flag=True, help="8 items, one round: to see that it works, not to measure.")
def main(items: int, rounds: int, paths: tuple[Path, ...], model: Path | None, quick: bool) -> None:
    """Measure sentiment: the article's way (fp32, bf16) and moodq through its queue, on the same texts.

    Prints a table and writes build/bench/latest.json.
    """
    plan = Plan(8, 1, 1) if quick else Plan(items, rounds, 3)
    console = Console()
    try:
        pool = load_texts(paths)
        document = bench(console, pool, plan, model)
    except MoodqError as error:
        console.print(f"bench: {error}", style="red", markup=False)
        sys.exit(error.exit_code)
    except (ChildFailed, RuntimeError, ValueError) as error:
        console.print(f"bench: {error}", style="red", markup=False)
        sys.exit(1)
    write_json({**document, "quick": quick})
    console.print(f"written: {LATEST}")


def bench(console: Console, pool: TextPool, plan: Plan, model: Path | None) -> dict[str, Any]:
    """Run all rounds, print the tables, and return what is to be written."""
    folder = model.resolve() if model else default_model_folder()
    with ExitStack() as stack:
        console.print(f"texts: {pool.origin}; {plan.items} in each of {plan.rounds} rounds", highlight=False)
        environment = {"MOODQ_MODEL": str(folder)} if model else {}
        service = stack.enter_context(Service(log=LATEST.parent / "worker.log", environment=environment))
        service.wait_ready()
        ref = service.model()
        peak = stack.enter_context(closing(Child("machine:MatmulPeak")))
        articles = [stack.enter_context(closing(ArticleWay(str(folder), p))) for p in ("fp32", "bf16")]
        peers: list[Peer] = [
            *articles,
            OneAtATime(service.client),
            UnderLoad(service.client, plan.load_passes),
        ]
        machine = Machine(
            peak.call("threads"), articles[-1].body_parameters(), floor_precision(ref.precision)
        )
        console.print(f"worker: {ref.id}, revision {ref.revision}, {ref.precision}", highlight=False)
        rows = {peer.name: Row(peer.name) for peer in peers}
        new_tokens: list[int] = []
        for peer in peers:
            peer.run(pool.slice(plan.rounds, WARM_UP_ITEMS))
        for number in range(plan.rounds):
            texts = pool.slice(number, plan.items)
            new_tokens += articles[-1].new_tokens(texts)
            machine.measure(peak)
            for peer in peers:
                time.sleep(PAUSE_S)
                run_row(console, rows[peer.name], peer, texts, f"round {number + 1} of {plan.rounds}")
    mean_tokens = sum(new_tokens) / len(new_tokens)
    floor = machine.floor_items_per_s(mean_tokens)
    ratios = {name: ratio(rows[over], rows[under]) for name, (over, under) in RATIOS.items()}
    ratios["sentiment_vs_floor"] = round(rows[UnderLoad.name].speed / floor, 4)
    console.print()
    print_tables(console, machine, list(rows.values()), ratios, new_tokens=mean_tokens)
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "texts": pool.origin,
        "items_per_round": plan.items,
        "rounds": plan.rounds,
        "model": ref.model_dump(),
        "machine": machine.as_json(mean_tokens),
        "rows": [row.as_json(floor) for row in rows.values()],
        "ratios": ratios,
    }


def floor_precision(precision: str) -> str:
    """The peak the floor is taken from: the worker's own precision, bf16 for what has no peak here."""
    return precision if precision in ("fp32", "bf16") else "bf16"


def run_row(console: Console, row: Row, peer: Peer, texts: Sequence[Labelled], progress: str) -> None:
    row.add(texts, peer.run(texts))
    console.print(
        f"  {progress}: {row.name}: {row.items_per_s[-1]:.2f} items/s", style="dim", highlight=False
    )


def default_model_folder() -> Path:
    """The converted model the settings name; fetched and converted first when it is not there yet."""
    from moodq_worker.model_store import resolve

    return resolve(load_settings(), click.echo).path


if __name__ == "__main__":
    main()
