"""The quantiser: a group's values to codes, a scale and a zero point, in f32 steps.

``levels`` is the largest code, one for all rows or one a row.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Levels = NDArray[np.integer]


def group_range(x: F32, there: NDArray[np.bool_]) -> tuple[F32, F32]:
    """Minimum and maximum of every row of ``x`` over what is ``there``; 0 where nothing is."""
    lo = np.where(there, x, np.inf).min(axis=1)
    hi = np.where(there, x, -np.inf).max(axis=1)
    some = there.any(axis=1)
    return np.where(some, lo, 0).astype(np.float32), np.where(some, hi, 0).astype(np.float32)


def relaxed(lo: F32, hi: F32, levels: int | Levels, eta: float | F32) -> tuple[F32, F32]:
    """Scale and zero point of groups with these ranges, end levels pulled in by eta."""
    eta = np.asarray(eta, np.float32)
    step = (hi - lo) / np.asarray(levels, np.float32)
    return (np.float32(1) - np.float32(2) * eta) * step, lo + eta * (hi - lo)


def levels_per_unit(lo: F32, hi: F32, levels: int | Levels) -> F32:
    """How many levels a unit is wide; none in a group without range."""
    span = hi - lo
    per_unit = np.zeros_like(span)
    return np.divide(np.asarray(levels, np.float32), span, out=per_unit, where=span > 0)


def encode(x: F32, lo: F32, per_unit: F32, levels: int | Levels) -> NDArray[np.int64]:
    """Codes: round((x - lo) / step), half up; a group without range is all zeros."""
    steps = (x - lo[:, None]) * per_unit[:, None]
    top = np.broadcast_to(levels, lo.shape)[:, None]
    return np.clip(np.floor(steps + np.float32(0.5)).astype(np.int64), 0, top)


def fold(x: F32) -> F32:
    """Sum over the last axis by halves: the upper onto the lower until one is left."""
    while x.shape[-1] > 1:
        lower, upper = np.split(x, 2, axis=-1)
        x = lower + upper
    return x[..., 0]
