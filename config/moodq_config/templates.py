"""What lines of a log have in common: their text with the variable parts masked, and labels pinned to it.

The worker's result cache answers by template, ``moodq templates`` counts and pins them; so both ends agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

#: What varies between log lines of one template: addresses, ids, numbers, and the words of dates. A mask is
#: left alone, and no date begins or ends at one: the template of a template is itself.
_VARIABLE = re.compile(
    r"""
    \b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b   # UUID
    | \b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b                     # IPv4, with a port
    | \b0x[0-9a-fA-F]+\b | \b(?=[a-fA-F]*\d)[0-9a-fA-F]{8,}\b   # hexadecimal
    | [-+]?\d+(?:[.,:/-]\d+)*                                  # numbers, times, dates
    | (?<!<\*>)\b(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun|Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)\b(?!<\*>)
    """,
    re.VERBOSE,
)

#: Pins there may be at most, and the characters of a pinned template: a worker holds them all in memory.
MAX_PINS = 10_000
MAX_PINNED_CHARS = 2_000


def template(text: str) -> str:
    """``text`` with what varies between lines of its kind masked."""
    return _VARIABLE.sub("<*>", text)


def pin_field(task: str, masked: str) -> str:
    """Field of the hash of pins for ``task`` and a template; its value is the label."""
    return f"{task} {masked}"


def read_pins(stored: Mapping[bytes, bytes] | Iterable[tuple[bytes, bytes]]) -> dict[tuple[str, str], str]:
    """Labels by task and template. What is no pin is left out: anybody may write into the hash."""
    found = {}
    for field, label in dict(stored).items():
        try:
            task, _, masked = field.decode().partition(" ")
            if masked and len(masked) <= MAX_PINNED_CHARS:
                found[task, masked] = label.decode()
        except UnicodeDecodeError:
            continue
    return found
