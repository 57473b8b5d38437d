"""The tile table: where every tile's rows live, who reads what, what to seal."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

HEAD = 8
NOT_SEALED = 0x7FFFFFFF


@dataclass(frozen=True)
class Seal:
    """An order to seal a tile's page. ``cells`` has a bit for every cell with data."""

    stream: int
    tile: int
    page: int
    cells: int


@dataclass
class Table:
    """One micro-batch: ``pos`` of every token, ``page`` (-1: none) and ``since`` [stream][tile].

    A query at position p reads a tile's codes from ``since`` on, and its page before.
    """

    pos: NDArray[np.int32]
    page: NDArray[np.int32]
    since: NDArray[np.int32]
    first_stream: int = 0
    seals: list[Seal] = field(default_factory=list)

    def form(self, stream: int, tile: int, pos: int) -> str:
        """How a query reads a tile: "codes", "page" or "none"."""
        sealed = self.since[stream, tile] != NOT_SEALED
        paged = self.page[stream, tile] >= 0
        if sealed and not (paged and pos < self.since[stream, tile]):
            return "codes"
        return "page" if paged else "none"

    def ints(self) -> NDArray[np.int32]:
        """The table as the kernels read it."""
        tiles = np.stack([self.page, self.since], axis=-1).ravel()
        seals = [v for s in self.seals for v in (s.stream, s.tile, s.page, _signed(s.cells))]
        head = np.zeros(HEAD, np.int32)
        n_tiles = self.page.shape[1]
        head[:4] = self.first_stream, n_tiles, HEAD + len(self.pos) + tiles.size, len(self.seals)
        return np.concatenate([head, self.pos, tiles, seals]).astype(np.int32)


def _signed(mask: int) -> int:
    return mask - 2**32 if mask >= 2**31 else mask
