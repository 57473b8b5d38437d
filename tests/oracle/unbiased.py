"""Symmetric values: the scale of a token's channels in two strips keeps <x, value> = <x, x>."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import codes as bitstream
from . import meta, quantise
from .side import LANES, Side

F32 = NDArray[np.float32]

NORMAL_STEP = {1: 1.596, 2: 0.9957, 3: 0.586, 4: 0.3352}
"""Step of the best uniform quantiser of a normal variable, by bits (Max 1960)."""


def seal(
    x: F32, side: Side, n_lanes: int, row_ok: NDArray[np.bool_]
) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Words of all, and the metadata in common, of ``x`` [1 or 2 strips][rows][32].

    ``n_lanes``: lanes of the last strip that hold data; the others are 0 in ``x``. A number
    that is not finite is stored as 0 is.
    """
    x = np.where(np.isfinite(x), x, np.float32(0))
    valid = np.ones((len(x), 1, LANES), bool)
    valid[-1, 0, n_lanes:] = False
    middle = np.float32(side.levels / 2)
    xx = _sum(x * x)
    rms = np.sqrt(xx / np.float32(valid.sum()))
    step = np.float32(NORMAL_STEP[side.bits]) * rms
    per_unit = np.zeros_like(step)
    np.divide(np.float32(1), step, out=per_unit, where=step > 0)
    code = np.floor(x * per_unit[:, None] + (middle + np.float32(0.5))).astype(np.int64)
    code = np.clip(code, 0, side.levels) * (valid & row_ok[:, None])
    along = _sum(x * (code.astype(np.float32) - middle))
    scale = np.zeros_like(xx)
    np.divide(xx, along, out=scale, where=row_ok & (along > 0))
    words = np.concatenate([bitstream.pack(c, side) for c in code])
    return words, meta.write(scale, scale, side)


def _sum(x: F32) -> F32:
    """Over strips first, then over lanes by halves, in f32."""
    return quantise.fold(x[0] if len(x) == 1 else x[0] + x[1])
