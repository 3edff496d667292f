"""Whose turn it is when several queues have work. Pure; ``batcher`` asks for labels, ``replies`` for texts.

The first queue is the urgent one. While it is busy the later ones together keep ``share`` of the turns, so
that they still move; among themselves they divide by weight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence


class FairShare:
    """Smooth weighted round-robin: over any stretch a queue gets its part, in turns spread evenly.

    ``weights`` are for the later queues, 1 for those that are not named.
    """

    def __init__(self, queues: Sequence[str], *, share: float, weights: Mapping[str, float]) -> None:
        self._first, *self._later = queues
        self._share = share
        self._weights = weights
        self._credit = dict.fromkeys(queues, 0.0)

    def choose(self, busy: Collection[str]) -> str:
        """One of ``busy``, which must not be empty."""
        later = [queue for queue in self._later if queue in busy]
        turn = {queue: self._weights.get(queue, 1.0) for queue in later}
        if self._first in busy:
            part = self._share / sum(turn.values()) if turn else 0.0
            turn = {self._first: 1.0 - self._share * bool(turn)} | {
                queue: weight * part for queue, weight in turn.items()
            }
        # A queue that was idle has saved nothing up.
        credit = {queue: self._credit.get(queue, 0.0) + weight for queue, weight in turn.items()}
        chosen = max(credit, key=credit.__getitem__)
        credit[chosen] -= sum(turn.values())
        self._credit = credit
        return chosen
