"""Scales and zero points as bytes: f16, or 8 bits on a grid."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .side import META_F16, Side

F32 = NDArray[np.float32]


def write(scale: F32, zero: F32, side: Side) -> NDArray[np.uint8]:
    """Metadata bytes of a strip."""
    if side.meta == META_F16:
        return _half(np.concatenate([scale, zero])).view(np.uint8)
    middle = zero + scale * _half_levels(side)
    (scale_grid, scale_at), (middle_grid, middle_at) = _to_grid(scale), _to_grid(middle)
    head = np.array([*scale_grid, *middle_grid], "<f2").view(np.uint8)
    return np.concatenate([head, scale_at, middle_at])


def read(data: NDArray[np.uint8], side: Side) -> tuple[F32, F32]:
    """Scale and zero point of every row."""
    n = side.rows
    if side.meta == META_F16:
        both = data.view("<f2").astype(np.float32)
        return both[:n], both[n:]
    scale_lo, scale_step, middle_lo, middle_step = data[:8].view("<f2").astype(np.float32)
    scale = scale_lo + scale_step * data[8 : 8 + n].astype(np.float32)
    middle = middle_lo + middle_step * data[8 + n :].astype(np.float32)
    return scale, middle - scale * _half_levels(side)


def _half_levels(side: Side) -> np.float32:
    return np.float32(side.levels / 2)


def _half(v: F32) -> NDArray[np.float16]:
    """Rounded to f16; values beyond its range become its largest."""
    return np.clip(v, -65504, 65504).astype("<f2")


def _to_grid(v: F32) -> tuple[tuple[np.float32, np.float32], NDArray[np.uint8]]:
    """A grid of 256 points that starts at the minimum, rounded to f16, and ends at the maximum."""
    lo = _half(v.min()).astype(np.float32)
    step = _half((v.max() - lo) / np.float32(255)).astype(np.float32)
    inv = np.float32(1) / step if step > 0 else np.float32(0)
    at = np.floor((v - lo) * inv + np.float32(0.5))
    return (lo, step), np.clip(at, 0, 255).astype(np.uint8)
