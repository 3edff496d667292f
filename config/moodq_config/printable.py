"""Text of a stranger made fit for a terminal or a log line: the one place where that is decided.

A text, an id or a queue's name may hold escape sequences that rewrite a terminal, line ends that begin a
forged log line, or characters that reverse what is read. All of them are shown as escapes.
"""

from __future__ import annotations

import unicodedata

_JOINERS = "\u200c\u200d"  # parts of emoji and of some scripts: invisible, and harmless


def printable(text: str) -> str:
    """``text`` on one line, with control, direction and invisible characters as ``\\x1b``-like escapes."""
    return text if text.isprintable() else escaped(" ".join(text.split()))


def escaped(text: str, keep: str = "") -> str:
    """The same with white space as it is: a line end that is none of ``keep`` becomes ``\\n``."""
    return "".join(char if char in keep or harmless(char) else _escape(char) for char in text)


def printable_json(body: str) -> str:
    """JSON with what it would let through of such characters as ``\\u`` escapes: the same JSON."""
    if body.isprintable():
        return body
    return "".join(char if harmless(char) else _json_escape(char) for char in body)


def harmless(char: str) -> bool:
    """Whether a terminal shows ``char`` as what it is, where it is."""
    return char in _JOINERS or unicodedata.category(char) not in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
