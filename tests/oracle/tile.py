"""A tile of one head: 32 tokens of keys or values cut into strips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import strip
from .side import LANES, TILE, Side

F32 = NDArray[np.float32]
Words = NDArray[np.uint32]
Bytes = NDArray[np.uint8]
Cells = NDArray[np.bool_]


def seal_keys(
    keys: F32, side: Side, cells: Cells, leader: Words | None = None
) -> tuple[Words, Bytes]:
    """Keys [32 tokens][dk]: channels are rows, tokens lanes; empty cells are lanes without data."""
    return strip.seal(np.ascontiguousarray(keys.T), side, lanes=cells, leader=leader)


def seal_values(
    values: F32, side: Side, cells: Cells, leader: Words | None = None
) -> tuple[Words, Bytes]:
    """Values [32 tokens][dv]: tokens are rows, empty cells rows without data."""
    words, data = [], []
    for s in range(side.strips):
        n = side.lanes(s)
        x = np.zeros((TILE, LANES), np.float32)
        x[:, :n] = values[:, s * LANES : s * LANES + n]
        theirs = None if leader is None else leader.reshape(side.strips, -1)[s]
        w, m = strip.seal(x, side, cells, np.arange(LANES) < n, theirs)
        words.append(w)
        data.append(m)
    return np.concatenate(words), np.concatenate(data)


def keys(words: Words, data: Bytes, side: Side) -> F32:
    """Keys [32][dk] of a sealed tile."""
    return strip.unpack(words, data, side).T


def values(words: Words, data: Bytes, side: Side) -> F32:
    """Values [32][dv] of a sealed tile."""
    w, m = words.reshape(side.strips, -1), data.reshape(side.strips, -1)
    parts = [strip.unpack(w[s], m[s], side)[:, : side.lanes(s)] for s in range(side.strips)]
    return np.concatenate(parts, axis=1)
