"""Plain attention in float64: what packed attention is checked against."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]


def attend(
    q: F64,
    keys: F64,
    values: F64,
    mask: F64,
    *,
    scale: float,
    softcap: float = 0.0,
    sink: float = -math.inf,
) -> F64:
    """softmax(softcap(q . keys) + mask) . values of one query head.

    Args:
        q: ``[dk]``. keys: ``[cells, dk]``. values: ``[cells, dv]``.
        mask: ``[cells]``, -inf hides a cell.
        scale: factor of every score. softcap: 0 for none.
        sink: one more logit, whose value is 0.

    Returns:
        ``[dv]``; zeros if no cell is seen.
    """
    seen = mask > -np.inf
    if not seen.any():
        return np.zeros(values.shape[1])
    logits = keys[seen] @ q * scale
    if softcap:
        logits = softcap * np.tanh(logits / softcap)
    logits += mask[seen]
    top = max(float(logits.max()), sink)
    weights = np.exp(logits - top)
    out: F64 = weights @ values[seen] / (weights.sum() + math.exp(sink - top))
    return out


def rotated(x: F64, block: int) -> F64:
    """Every ``block`` numbers of the last axis times Hadamard's matrix; 0: ``x`` as it is."""
    if block == 0:
        return x
    matrix = np.ones((1, 1))
    while len(matrix) < block:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    turned: F64 = (x.reshape(-1, block) @ matrix / math.sqrt(block)).reshape(x.shape)
    return turned
