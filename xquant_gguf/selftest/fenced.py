"""Arrays between two margins of known bytes, so that a write beyond an end shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_MARGIN = 64
_KNOWN = 0xA5


class Fenced:
    """An array ``data`` of any shape with margins around it.

    Args:
        array: what it holds at first, copied.
    """

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._all = np.full(array.nbytes + 2 * _MARGIN, _KNOWN, np.uint8)
        inside = self._all[_MARGIN : _MARGIN + array.nbytes]
        self.data: npt.NDArray[Any] = inside.view(array.dtype).reshape(array.shape)
        self.data[...] = array

    @classmethod
    def full(cls, shape: tuple[int, ...], kind: Any, value: Any) -> Fenced:
        """An array of one value, which a kernel has to overwrite."""
        return cls(np.full(shape, value, kind))

    @property
    def broken(self) -> int:
        """Bytes of the margins that were written to."""
        size = self.data.nbytes
        margins = (self._all[:_MARGIN], self._all[_MARGIN + size :])
        return sum(int((margin != _KNOWN).sum()) for margin in margins)
