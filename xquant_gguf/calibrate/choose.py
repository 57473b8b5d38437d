"""One option for every slot, so that the sum of losses or the sum of costs is the least: exact."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Option:
    """One way to fill a slot. ``cost`` is a whole number above 0, ``loss`` 0 or more."""

    cost: int
    loss: float


class Table:
    """The least loss at every total cost, by dynamic programming over the slots.

    Args:
        slots: the options of each slot, at least one.
        limit: the largest total cost of interest.
    """

    def __init__(self, slots: Sequence[Sequence[Option]], limit: int) -> None:
        self._unit = math.gcd(*(option.cost for options in slots for option in options))
        self._costs = [[option.cost // self._unit for option in options] for options in slots]
        room = max(0, limit) // self._unit
        loss = np.full(room + 1, np.inf)
        loss[0] = 0.0
        self._picks: list[npt.NDArray[np.int16]] = []
        for options, costs in zip(slots, self._costs):
            best = np.full(room + 1, np.inf)
            pick = np.zeros(room + 1, np.int16)
            for i, (option, cost) in enumerate(zip(options, costs)):
                if cost > room:
                    continue
                with_it = loss[: room + 1 - cost] + option.loss
                better = with_it < best[cost:]
                best[cost:][better] = with_it[better]
                pick[cost:][better] = i
            self._picks.append(pick)
            loss = best
        self._loss = loss

    def least_loss(self) -> list[int] | None:
        """The option of each slot with the least loss within the limit, None if none is within."""
        at = int(self._loss.argmin())
        return self._walk(at) if np.isfinite(self._loss[at]) else None

    def least_cost(self, loss: float) -> list[int] | None:
        """The option of each slot with the least cost and no more than ``loss``, None if none."""
        within = np.flatnonzero(self._loss <= loss)
        return self._walk(int(within[0])) if len(within) else None

    def _walk(self, at: int) -> list[int]:
        chosen = []
        for pick, costs in zip(reversed(self._picks), reversed(self._costs)):
            i = int(pick[at])
            chosen.append(i)
            at -= costs[i]
        return chosen[::-1]
