"""The rotation of values as a product with a matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def block_of(head_dim: int) -> int:
    """The largest power of two up to 64 that divides the head dim."""
    return int(np.gcd(head_dim, 64))


def matrix(n: int) -> F64:
    """Hadamard's: rows and columns disagree where they have an odd number of bits in common."""
    common = np.arange(n)[:, None] & np.arange(n)
    odd = (common[..., None] >> np.arange(8) & 1).sum(axis=-1) % 2
    return (1 - 2 * odd) / np.sqrt(n)


def rotate(x: NDArray[np.floating], block: int) -> F64:
    """``x`` with every ``block`` numbers of its last axis rotated; 0: as it is."""
    x = x.astype(np.float64)
    return (x.reshape(-1, block) @ matrix(block)).reshape(x.shape) if block else x
