"""Where sentences end, so that a reply that its task's maximum ends does not stop within one.

Between the decode step and what is published: ``replies`` asks here how much of a text counts.
"""

from __future__ import annotations

import re

# A full stop ends a sentence only where something other than a letter or digit follows: not in 3.5 or a.b.
# One at the end of the text counts unless a digit stands before it, which may be half a number.
_QUOTES = r"""["'”’」』)）\]]*"""
_END = re.compile(rf"(?:[。！？…]|[.!?](?={_QUOTES}\s)|(?<!\d)[.!?](?={_QUOTES}$))[。！？….!?]*{_QUOTES}")


def whole_sentences(text: str) -> int:
    """Characters of ``text`` up to the end of its last whole sentence with its quotes; 0 without one."""
    end = 0
    for match in _END.finditer(text):
        end = match.end()
    return end


def to_show(text: str, shown: int, *, tokens: int, max_tokens: int, finish_reason: str | None) -> int:
    """Characters of ``text`` that count by now, of which ``shown`` have been published.

    In the first half of the maximum that is all there is. After it only whole sentences are given out, so
    that what the maximum cuts off was never shown; a sentence that takes more than half of it stays as it is.
    """
    if finish_reason == "stop":
        return len(text)
    if finish_reason == "length":
        end = whole_sentences(text)
        return end if end and end >= shown else len(text)
    return len(text) if tokens * 2 < max_tokens else max(shown, whole_sentences(text))
