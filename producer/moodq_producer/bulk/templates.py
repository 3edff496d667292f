"""Templates of tagged lines with their labels and counts: a page a person can review, and pin labels on.

Counted in bounded memory: of more than ``MAX_TEMPLATES`` the rare ones are given up and told as such.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from moodq_config.contracts import LabelScores
from moodq_config.errors import ConfigError
from moodq_config.templates import template

MAX_TEMPLATES = 50_000
#: Characters of a template and of its example that are kept.
SHOWN_CHARS = 2_000
#: What a person edits is ``pin``: a label there is what ``moodq templates pin --from`` pins.
COLUMNS = ("task", "rows", "share", "label", "agree", "probability", "pin", "template", "example")


@dataclass(slots=True)
class Seen:
    """The lines of one template that one task labelled. ``confidence`` is the sum of the probabilities."""

    example: str
    labels: Counter[str] = field(default_factory=Counter)
    confidence: float = 0.0

    @property
    def rows(self) -> int:
        return self.labels.total()


class Templates:
    """``add`` every row; ``most_frequent`` first."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], Seen] = {}
        self.rows: Counter[str] = Counter()
        #: Rows of templates that were given up, by task.
        self.others: Counter[str] = Counter()

    def add(self, text: str, labels: Mapping[str, LabelScores]) -> None:
        masked = template(text.strip())[:SHOWN_CHARS] if labels else ""
        for task, scores in labels.items():
            self.rows[task] += 1
            seen = self._seen.get((task, masked))
            if seen is None:
                if len(self._seen) >= MAX_TEMPLATES:
                    self._give_up_rare()
                seen = self._seen[task, masked] = Seen(text[:SHOWN_CHARS])
            seen.labels[scores.label] += 1
            seen.confidence += scores.probability

    @property
    def tasks(self) -> list[str]:
        return list(self.rows)

    def most_frequent(self, task: str | None = None) -> list[dict[str, Any]]:
        """Rows of the table, with ``COLUMNS``, of one task or of all."""
        chosen = [(name, masked, seen) for (name, masked), seen in self._seen.items() if task in (None, name)]
        chosen.sort(key=lambda one: (-one[2].rows, one[0], one[1]))
        table = []
        for name, masked, seen in chosen:
            label, count = seen.labels.most_common(1)[0]
            table.append(
                {
                    "task": name,
                    "rows": seen.rows,
                    "share": f"{seen.rows / self.rows[name]:.4f}",
                    "label": label,
                    "agree": f"{count / seen.rows:.3f}",
                    "probability": f"{seen.confidence / seen.rows:.3f}",
                    "pin": "",
                    "template": masked,
                    "example": seen.example,
                }
            )
        return table

    def _give_up_rare(self) -> None:
        kept = sorted(self._seen.items(), key=lambda one: -one[1].rows)
        for (task, _), seen in kept[MAX_TEMPLATES // 2 :]:
            self.others[task] += seen.rows
        self._seen = dict(kept[: MAX_TEMPLATES // 2])


def write_csv(table: Iterable[Mapping[str, Any]], to: IO[str]) -> None:
    """A table that spreadsheets open."""
    writer = csv.DictWriter(to, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of such a table, as edited. Raises ``ConfigError``."""
    needed = {"task", "pin", "template"}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if missing := needed - set(reader.fieldnames or ()):
                raise ConfigError(
                    f"{path} has no column {', '.join(sorted(missing))}; make it with: moodq templates list "
                    f"tagged.jsonl -o {path.name}"
                )
            return [{name: row.get(name) or "" for name in COLUMNS} for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from None
