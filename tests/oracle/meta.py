"""Scales and zero points as bytes: f16, 8 bits on a grid, or symmetric on a logarithmic grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import grid
from .side import META_F16, META_LOG8, Side

F32 = NDArray[np.float32]


def write(scale: F32, zero: F32, side: Side) -> NDArray[np.uint8]:
    """Metadata bytes of a strip; a symmetric side has no use for ``zero``."""
    if side.meta == META_F16:
        return grid.half(np.concatenate([scale, zero])).view(np.uint8)
    if side.meta == META_LOG8:
        head, codes = grid.logarithmic(scale, top=255)
        return np.concatenate([head, codes.astype(np.uint8)])
    scale_head, scale_at = grid.even(scale)
    middle_head, middle_at = grid.even(zero + scale * _half_levels(side))
    return np.concatenate([scale_head, middle_head, scale_at, middle_at])


def read(data: NDArray[np.uint8], side: Side) -> tuple[F32, F32]:
    """Scale and zero point of every row."""
    n = side.rows
    if side.meta == META_F16:
        both = data.view("<f2").astype(np.float32)
        return both[:n], both[n:]
    if side.meta == META_LOG8:
        scale = grid.logarithmic_values(data[:4], data[4:].astype(np.int64))
        return scale, -scale * _half_levels(side)
    scale = grid.even_values(data[:4], data[8 : 8 + n])
    middle = grid.even_values(data[4:8], data[8 + n :])
    return scale, middle - scale * _half_levels(side)


def _half_levels(side: Side) -> np.float32:
    return np.float32(side.levels / 2)
