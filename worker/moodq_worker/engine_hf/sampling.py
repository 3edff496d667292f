"""Which token comes next when a task samples; greedy tasks do not come here."""

from __future__ import annotations

import torch


class Sampler:
    """One row's draws: temperature, then nucleus sampling (top-p, Holtzman et al. 2020).

    The same ``seed`` draws the same tokens from the same logits, so that a row that begins anew after a
    neighbour's failure says again what was shown of it.
    """

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self._temperature = temperature
        self._top_p = top_p
        self._generator = torch.Generator().manual_seed(seed)

    def draw(self, logits: torch.Tensor) -> int:
        """A token by ``logits``, ``[vocabulary]``, of which at least one is finite and none is NaN."""
        odds = torch.softmax(logits.float().cpu() / self._temperature, dim=-1)
        if self._top_p < 1.0:
            ordered, tokens = odds.sort(descending=True)
            # A token stays if those before it have not reached top_p: the first one always does.
            ordered[ordered.cumsum(-1) - ordered >= self._top_p] = 0.0
            return int(tokens[torch.multinomial(ordered, 1, generator=self._generator)])
        return int(torch.multinomial(odds, 1, generator=self._generator))
