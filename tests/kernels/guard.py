"""Arrays with sentinels on both sides, to see writes out of bounds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MARGIN = 64
SENTINEL = 0xA5


class Guarded:
    """An array whose ``data`` lies between two margins of sentinel bytes."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, fill: Any = 0) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self._bytes = np.full(size + 2 * MARGIN, SENTINEL, np.uint8)
        inner = self._bytes[MARGIN : MARGIN + size]
        self.data: NDArray[Any] = inner.view(dtype).reshape(shape)
        self.data[...] = fill

    @classmethod
    def of(cls, array: NDArray[Any]) -> Guarded:
        """A guarded copy."""
        copy = cls(array.shape, array.dtype)
        copy.data[...] = array
        return copy

    def check(self) -> None:
        """Fail if a margin was written to."""
        end = len(self._bytes) - MARGIN
        assert (self._bytes[:MARGIN] == SENTINEL).all(), "wrote before the array"
        assert (self._bytes[end:] == SENTINEL).all(), "wrote behind the array"
