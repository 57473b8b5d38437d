"""A tile of one head: 32 tokens of keys or values cut into strips."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import strip, unbiased
from .side import LANES, META_LOG8, TILE, Side

F32 = NDArray[np.float32]
Words = NDArray[np.uint32]
Bytes = NDArray[np.uint8]
Cells = NDArray[np.bool_]


def seal_keys(
    keys: F32, side: Side, cells: Cells, leader: Words | None = None
) -> tuple[Words, Bytes]:
    """Keys [32 tokens][dk]: channels are rows, tokens lanes; empty cells are lanes without data.

    Every strip is sealed by itself; the last is filled up with channels of 0.
    """
    channels = np.zeros((side.strips * side.rows, TILE), np.float32)
    channels[: keys.shape[1]] = keys.T
    theirs = [None] * side.strips if leader is None else leader.reshape(side.strips, -1)
    parts = [
        strip.seal(x, side, lanes=cells, leader=words)
        for x, words in zip(channels.reshape(side.strips, -1, TILE), theirs)
    ]
    words, data = zip(*parts)
    return np.concatenate(words), np.concatenate(data)


def seal_values(
    values: F32, side: Side, cells: Cells, leader: Words | None = None
) -> tuple[Words, Bytes]:
    """Values [32 tokens][dv]: tokens are rows, empty cells rows without data."""
    words, data = [], []
    x = cut(values)
    for s in range(0, side.strips, side.shared):
        n_lanes = side.lanes(min(s + side.shared, side.strips) - 1)
        if side.meta == META_LOG8:
            w, m = unbiased.seal(x[s : s + side.shared], side, n_lanes, cells)
        else:
            theirs = None if leader is None else leader.reshape(side.strips, -1)[s]
            w, m = strip.seal(x[s], side, cells, np.arange(LANES) < n_lanes, theirs)
        words.append(w)
        data.append(m)
    return np.concatenate(words), np.concatenate(data)


def cut(values: F32) -> F32:
    """Values [32 tokens][dv] as strips [strip][32 tokens][32 lanes], the last filled up with 0."""
    padded = np.pad(values, ((0, 0), (0, -values.shape[1] % LANES)))
    return np.ascontiguousarray(padded.reshape(TILE, -1, LANES).swapaxes(0, 1))


def keys(words: Words, data: Bytes, side: Side, dk: int) -> F32:
    """Keys [32][dk] of a sealed tile."""
    w, m = words.reshape(side.strips, -1), data.reshape(side.strips, -1)
    parts = [strip.unpack(w[s], m[s], side) for s in range(side.strips)]
    return np.concatenate(parts)[:dk].T


def values(words: Words, data: Bytes, side: Side) -> F32:
    """Values [32][dv] of a sealed tile."""
    w = words.reshape(side.strips, -1)
    m = data.reshape(-1, side.strip_meta).repeat(side.shared, axis=0)
    parts = [strip.unpack(w[s], m[s], side)[:, : side.lanes(s)] for s in range(side.strips)]
    return np.concatenate(parts, axis=1)
