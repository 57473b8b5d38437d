"""Random numbers of the kinds that keys and values show, and kinds that are hard to quantise."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

KINDS = ("normal", "outlier", "offset", "constant", "spread")


def numbers(
    source: np.random.Generator, shape: tuple[int, ...], kind: str
) -> npt.NDArray[np.float16]:
    """Numbers whose last axis is channels.

    Args:
        kind: ``normal``; one channel a thousand times the others (``outlier``) or far from
            zero (``offset``); every other channel ``constant``; channels of widths from
            1/64 to 64 (``spread``).
    """
    x = source.standard_normal(shape)
    if kind == "outlier":
        x[..., 3] *= 1000
    elif kind == "offset":
        x[..., 3] += 1000
    elif kind == "constant":
        x[..., ::2] = 0.75
    elif kind == "spread":
        x *= 2 ** source.uniform(-6, 6, shape[-1])
    return x.astype(np.float16)
