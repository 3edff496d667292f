"""The labelled texts every row of the bench is run on."""

from __future__ import annotations

import random
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import cycle, islice
from pathlib import Path

from moodq_config.tasks import Lang, detect_lang

#: Beside the repository, where there is such a folder: real reviews and tweets, ``label<TAB>text`` a line.
DATA_FILES = (Path("../shared/data/waimai_dev_zh.tsv"), Path("../shared/data/airline_dev_en.tsv"))
LABELS = ("positive", "negative")
SEED = 20240229


@dataclass(frozen=True, slots=True)
class Labelled:
    text: str
    label: str
    lang: Lang


class TextPool:
    """Texts of several sources, shuffled once with a fixed seed; every round takes the next slice of each."""

    def __init__(self, sources: Sequence[Sequence[Labelled]], origin: str) -> None:
        self.origin = origin
        self._sources = [list(source) for source in sources if source]
        for source in self._sources:
            random.Random(SEED).shuffle(source)

    def slice(self, round_number: int, count: int) -> list[Labelled]:
        """``count`` texts for a round, as even as possible from every source; a short source starts again."""
        shares = [count // len(self._sources)] * len(self._sources)
        for extra in range(count % len(self._sources)):
            shares[extra] += 1
        taken = [
            text
            for source, share in zip(self._sources, shares, strict=True)
            for text in islice(cycle(source), round_number * share, (round_number + 1) * share)
        ]
        random.Random(SEED + round_number).shuffle(taken)
        return taken


def load_texts(paths: Sequence[Path] = ()) -> TextPool:
    """The files given, else the files beside the repository, else the messages the demo ships.

    Raises ``ValueError`` naming file and line when a line is not ``positive|negative<TAB>text``.
    """
    chosen = list(paths) or [path for path in DATA_FILES if path.is_file()]
    if chosen:
        return TextPool([read_tsv(path) for path in chosen], ", ".join(path.name for path in chosen))
    shipped = demo_messages()
    by_lang = [[text for text in shipped if text.lang == lang] for lang in ("zh", "en")]
    return TextPool(by_lang, f"the demo's {len(shipped)} labelled messages, repeated (no data files at hand)")


def read_tsv(path: Path) -> list[Labelled]:
    texts = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        label, tab, text = line.partition("\t")
        if not line.strip():
            continue
        if label not in LABELS or not tab or not text.strip():
            raise ValueError(f"{path}:{number}: must be positive or negative, a tab, and a text")
        texts.append(Labelled(text.strip(), label, detect_lang(text)))
    if not texts:
        raise ValueError(f"{path} holds no texts")
    return texts


def demo_messages() -> list[Labelled]:
    source = resources.files("moodq_worker").joinpath("demo_messages.toml")
    messages = tomllib.loads(source.read_text("utf-8"))["messages"]
    return [
        Labelled(message["text"], message["label"], detect_lang(message["text"]))
        for message in messages
        if message.get("label") in LABELS
    ]
