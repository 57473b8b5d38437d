"""A strip: rows x 32 values to words and metadata, and back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import codes as bitstream
from . import follow, meta, quantise, ranked
from .side import FIT_LS, LANES, META_RANKED, Side

F32 = NDArray[np.float32]
Words = NDArray[np.uint32]
Bytes = NDArray[np.uint8]


def seal(
    x: F32,
    side: Side,
    row_ok: NDArray[np.bool_] | None = None,
    lanes: NDArray[np.bool_] | None = None,
    leader: Words | None = None,
) -> tuple[Words, Bytes]:
    """Words and metadata of ``x`` [rows][32]; with ``leader``, its words and this layer's metadata.

    Rows that are not ``row_ok`` hold nothing: code, scale and zero are 0. Lanes
    outside ``lanes`` count for nothing and have code 0, and so has a number that is
    not finite.
    """
    rows = np.ones(side.rows, bool) if row_ok is None else row_ok
    lanes = np.ones(LANES, bool) if lanes is None else lanes
    if side.meta == META_RANKED:
        return ranked.seal(x, side, lanes)
    scale, zero = np.zeros((2, side.rows), np.float32)
    code = np.zeros((side.rows, LANES), np.int64)
    there = rows[:, None] & lanes & np.isfinite(x)
    some = there.any(axis=1)
    if some.any():
        data = np.where(there, x, np.float32(0))
        lo, hi = quantise.group_range(data, there)
        scale[some], zero[some] = quantise.relaxed(lo[some], hi[some], side.levels, side.eta)
        per_unit = quantise.levels_per_unit(lo, hi, side.levels)
        code = quantise.encode(data, lo, per_unit, side.levels) * there
        if leader is not None and side.fit == FIT_LS:
            theirs = bitstream.unpack(leader, side)
            for i in np.flatnonzero(some):
                fit = follow.least_squares(x[i : i + 1, there[i]], theirs[i : i + 1, there[i]])
                scale[i], zero[i] = (number.item() for number in fit)
    words = bitstream.pack(code, side) if leader is None else leader
    return words, meta.write(scale, zero, side)


def unpack(words: Words, data: Bytes, side: Side) -> F32:
    """Values [rows][32]."""
    if side.meta == META_RANKED:
        return ranked.unpack(words, data, side)
    scale, zero = meta.read(data, side)
    code = bitstream.unpack(words, side).astype(np.float32)
    return zero[:, None] + scale[:, None] * code
