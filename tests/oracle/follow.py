"""A follower's scales: least squares of its values on its leader's codes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def least_squares(
    x: NDArray[np.float32], codes: NDArray[np.integer]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scale and zero of every row that bring ``zero + scale * code`` closest to ``x``.

    Codes that are all the same fit any scale: it is 0 then, and zero the mean.
    """
    fits = []
    for values, code in zip(x.astype(np.float64), codes.astype(np.float64)):
        if np.ptp(code) == 0:
            fits.append((0.0, values.mean()))
        else:
            columns = np.stack([code, np.ones_like(code)], axis=1)
            fits.append(tuple(np.linalg.lstsq(columns, values, rcond=None)[0]))
    both = np.array(fits, np.float32).reshape(-1, 2)
    return both[:, 0], both[:, 1]
