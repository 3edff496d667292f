"""``python -m tests.fuzz``, from the repository's root: a coverage-guided fuzzer on all that is decoded.

libFuzzer, by way of ``atheris``, mutates the golden files and keeps what reaches new branches. One process a
target, since a run of libFuzzer ends its process. An input that breaks a promise is kept in ``build/fuzz``;
``--input FILE`` runs it again.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import click

FOLDER = Path("build/fuzz")
LATEST = FOLDER / "latest.json"
MAX_INPUT_BYTES = 8_192
#: Modules whose branches guide the fuzzer.
INSTRUMENTED = ("moodq_config", "moodq_producer", "moodq_worker", "rq.job")
NOTHING: dict[str, Any] = {"inputs": 0, "outcomes": {}}
TARGET_NAMES = ("job", "tasks-file", "result")
COVERAGE = re.compile(r"cov: (\d+) ft: (\d+) corp: (\d+)")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--runs", default=100_000, show_default=True, type=click.IntRange(1), help="Inputs per target.")
@click.option("--only", "names", multiple=True, type=click.Choice(TARGET_NAMES),
              help="This target; may be repeated. Default: all.")  # fmt: skip
@click.option("--seed", default=0, type=click.IntRange(0), help="Of the mutations; 0: another one each time.")
@click.option("--input", "path", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="Run one input of the target, and show what it raises.")  # fmt: skip
@click.option("--child", hidden=True, type=click.Choice(TARGET_NAMES))
def main(runs: int, names: tuple[str, ...], seed: int, path: Path | None, child: str | None) -> None:
    """Feed mutated golden files to the decoders: no crash, every refusal coded.

    Prints counts and writes build/fuzz/latest.json. Exit code 1 when an input broke a promise, 4 without
    atheris.
    """
    if path is not None:
        run_one(names[0] if names else "job", path)
    elif importlib.util.find_spec("atheris") is None:
        click.echo(
            "fuzz: atheris is not installed: pip install 'moodq[fuzz]' (Linux, CPython 3.11 to 3.13). "
            "Without it: pytest tests/fuzz, the same targets not guided by coverage",
            err=True,
        )
        sys.exit(4)
    elif child is not None:
        fuzz_here(child, runs, seed)
    else:
        sys.exit(fuzz_all(names or TARGET_NAMES, runs, seed))


def run_one(name: str, path: Path) -> None:
    from .targets import TARGETS

    click.echo(TARGETS[name](path.read_bytes()))


def fuzz_all(names: tuple[str, ...], runs: int, seed: int) -> int:
    FOLDER.mkdir(parents=True, exist_ok=True)
    click.echo(f"fuzz: {runs} inputs for each of {', '.join(names)}; this takes some minutes")
    found = {name: fuzz(name, runs, seed) for name in names}
    LATEST.write_text(json.dumps({"runs": runs, "targets": found}, indent=2) + "\n", "utf-8")
    click.echo(f"written: {LATEST}")
    broken = [name for name, one in found.items() if one["broken"] or one["inputs"] < runs]
    return 1 if broken else 0


def fuzz(name: str, runs: int, seed: int) -> dict[str, Any]:
    """Run one target in a process of its own; returns what it counted."""
    counts = FOLDER / f"{name}.json"
    counts.unlink(missing_ok=True)
    began = time.monotonic()
    command = [sys.executable, "-m", __package__, "--child", name, "--runs", str(runs), "--seed", str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    (FOLDER / f"{name}.log").write_text(done.stdout + done.stderr, "utf-8")
    counted: dict[str, Any] = json.loads(counts.read_text()) if counts.is_file() else NOTHING
    edges, features, corpus = map(int, (COVERAGE.findall(done.stderr) or [(0, 0, 0)])[-1])
    outcomes = ", ".join(f"{code} {count}" for code, count in counted["outcomes"].items())
    broken = done.returncode != 0
    click.echo(
        f"{name}: {counted['inputs']} inputs in {time.monotonic() - began:.0f} s, {edges} branches reached, "
        f"{corpus} inputs kept; {outcomes}"
    )
    if broken:
        click.echo("\n".join((done.stdout + done.stderr).splitlines()[-40:]), err=True)
        click.echo(f"{name}: a promise is broken; run it again with --only {name} --input FILE", err=True)
    return {**counted, "branches": edges, "features": features, "corpus": corpus, "broken": broken}


def fuzz_here(name: str, runs: int, seed: int) -> None:
    """Does not return: libFuzzer ends the process, with 0 when every promise held."""
    import atheris

    with atheris.instrument_imports(include=list(INSTRUMENTED)):
        from .targets import TARGETS
    from .corpus import WORDS, golden_files, mutated, seeds

    corpus = FOLDER / "seeds" / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed_input in enumerate(seeds(name)):
        (corpus / str(number)).write_bytes(seed_input)
    words = FOLDER / f"{name}.words"
    words.write_text("\n".join(_quoted(word) for word in WORDS[name]) + "\n", "ascii")

    target, outcomes = TARGETS[name], Counter[str]()

    def test_one_input(data: bytes) -> None:
        outcomes[target(data)] += 1
        inputs = outcomes.total()
        if inputs % 1_000 == 0 or inputs >= runs:  # libFuzzer ends the process without a word
            document = {"inputs": inputs, "outcomes": dict(outcomes.most_common())}
            (FOLDER / f"{name}.json").write_text(json.dumps(document))

    golden = golden_files(name)

    def mutator(data: bytes, longest: int, seed: int) -> bytes:
        return mutated(data, longest, seed, golden, atheris.Mutate)

    atheris.Setup(
        [
            sys.argv[0],
            f"-runs={runs}",
            f"-seed={seed}",
            f"-max_len={MAX_INPUT_BYTES}",
            f"-dict={words}",
            f"-artifact_prefix={FOLDER}/{name}-",
            "-print_final_stats=1",
            str(corpus),
        ],
        test_one_input,
        custom_mutator=None if name == "tasks-file" else mutator,
    )
    atheris.Fuzz()


def _quoted(word: bytes) -> str:
    """As libFuzzer's dictionaries have it."""
    return (
        '"'
        + "".join(chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\x{byte:02x}" for byte in word)
        + '"'
    )


if __name__ == "__main__":
    main()
