"""How far a kernel may be from the oracle, as normalised mean square error.

The values stand near what was measured with the avx2 kernels, the least exact
ones: their multipliers have 15 bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

REQUIRED = 1e-4
"""What every attention kernel owes in any case."""

MAC = 1e-8
MAC_BYTES = 3e-8
"""As MAC for codes of 8 bits: all far from 0, so that a sum may cancel to little (seen: 1.2e-8)."""

MAC_OUTLIER = 1e-7
"""As MAC where one multiplier is a thousand times the others: it sets the step of all."""

ATTENTION = 1e-7
ATTENTION_SHARP = 1e-6
"""As ATTENTION for keys of wide and narrow channels: logits of hundreds, whose error is absolute
(seen in 40 seeds: 4.5e-7 with ranked keys, 1.3e-6 with 1-bit keys of equal widths)."""


def nmse(got: NDArray[np.floating], want: NDArray[np.floating]) -> float:
    """Square error over the square of what was wanted; infinite unless everything is finite."""
    if not np.isfinite(got).all():
        return float("inf")
    error = float(np.square(got.astype(np.float64) - want).sum())
    power = float(np.square(want.astype(np.float64)).sum())
    return error / power if power else (0.0 if error == 0 else float("inf"))


def assert_near(got: NDArray[np.floating], want: NDArray[np.floating], budget: float) -> None:
    """Fail with the error and nothing else: arrays would fill the screen."""
    error = nmse(got, want)
    assert error <= budget, f"NMSE {error:.2e} is above the budget of {budget:.0e}"
