"""Grids that metadata puts its numbers on: even steps, or even steps of a logarithm."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F32 = NDArray[np.float32]
Ints = NDArray[np.int64]


def half(v: F32) -> NDArray[np.float16]:
    """Rounded to f16; values beyond its range become its largest."""
    return np.clip(v, -65504, 65504).astype("<f2")


def even(v: F32) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Head and codes of a grid of 256 points from the minimum, rounded to f16, to the maximum.

    A minimum of zero is stored without a sign.
    """
    lo = half(v.min() + np.float32(0))
    step = half((v.max() + np.float32(0) - lo.astype(np.float32)) / np.float32(255))
    head = np.array([lo, step], "<f2").view(np.uint8)
    inv = np.float32(1) / step.astype(np.float32) if step > 0 else np.float32(0)
    at = np.floor((v - lo.astype(np.float32)) * inv + np.float32(0.5))
    return head, np.clip(at, 0, 255).astype(np.uint8)


def even_values(head: NDArray[np.uint8], codes: NDArray[np.uint8]) -> F32:
    """What the codes of an even grid stand for."""
    lo, step = head.view("<f2").astype(np.float32)
    return lo + step * codes.astype(np.float32)


def logarithm(scale: F32, up: NDArray[np.bool_] | bool = False) -> Ints:
    """128 steps an octave, straight between powers of two; to the nearest or, with ``up``, above.

    One is 127 * 128. Only for positive scales that are normal floats.
    """
    fraction, exponent = np.frexp(scale.astype(np.float64))
    steps = (2 * fraction - 1) * 128
    return (exponent + 126) * 128 + np.where(up, np.ceil(steps), np.floor(steps + 0.5)).astype(int)


def logarithmic(
    scale: F32, top: int, up: NDArray[np.bool_] | bool = False
) -> tuple[NDArray[np.uint8], Ints]:
    """Head and codes of a logarithmic grid whose largest code is ``top``; a scale of 0 is code 0.

    Where ``up``, neither the logarithm nor its code is rounded down.
    """
    codes = np.zeros(len(scale), np.int64)
    some = scale > 0
    up = np.broadcast_to(up, scale.shape)[some]
    log = logarithm(scale[some], up)
    lowest = int(log.min()) if some.any() else 0
    step = -(-int(np.ptp(log)) // (top - 1)) if some.any() else 0
    above = log - lowest
    if step:
        above = np.where(up, -(-above // step), (2 * above + step) // (2 * step))
    codes[some] = 1 + above
    return np.array([lowest, step], "<u2").view(np.uint8), codes


def logarithmic_values(head: NDArray[np.uint8], codes: Ints) -> F32:
    """What the codes of a logarithmic grid stand for."""
    lowest, step = head.view("<u2").astype(np.int64)
    octave, part = np.divmod(lowest + (codes - 1) * step, 128)
    return np.where(codes > 0, np.ldexp(1 + part / 128, octave - 127), 0).astype(np.float32)
