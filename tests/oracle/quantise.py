"""The quantiser: a group's values to codes, a scale and a zero point, in f32 steps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .side import Side

F32 = NDArray[np.float32]


def group_range(x: F32, lanes: NDArray[np.bool_]) -> tuple[F32, F32]:
    """Minimum and maximum of every row of ``x`` over the lanes that hold data."""
    return x[:, lanes].min(axis=1), x[:, lanes].max(axis=1)


def relaxed(lo: F32, hi: F32, side: Side) -> tuple[F32, F32]:
    """Scale and zero point of groups with these ranges, end levels pulled in by eta."""
    eta = np.float32(side.eta)
    step = (hi - lo) / np.float32(side.levels)
    return (np.float32(1) - np.float32(2) * eta) * step, lo + eta * (hi - lo)


def encode(x: F32, lo: F32, hi: F32, side: Side) -> NDArray[np.int64]:
    """Codes: round((x - lo) / step), half up; a group without range is all zeros."""
    span = hi - lo
    inv = np.zeros_like(span)
    np.divide(np.float32(side.levels), span, out=inv, where=span > 0)
    steps = (x - lo[:, None]) * inv[:, None]
    return np.clip(np.floor(steps + np.float32(0.5)).astype(np.int64), 0, side.levels)
