"""Attention of one query over plain keys and values, in float64."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]


def attend(
    q: F64,
    k: F64,
    v: F64,
    mask: F64,
    scale: float,
    softcap: float = 0.0,
    slope: float = 1.0,
    sink: float = -math.inf,
) -> F64:
    """softmax(softcap(q k) + slope * mask) v; a ``sink`` is one more logit with a value of 0.

    A query that sees nothing yields 0.
    """
    logits = k @ q * scale
    if softcap:
        logits = softcap * np.tanh(logits / softcap)
    seen = mask > -np.inf
    if not seen.any():
        return np.zeros(v.shape[1])
    logits = logits[seen] + slope * mask[seen]
    top = max(float(logits.max()), sink)
    weights = np.exp(logits - top)
    total = weights.sum() + math.exp(sink - top)
    return weights @ v[seen] / total


def alibi_slope(max_bias: float, n_head: int, head: int) -> float:
    """ALiBi as ggml has it.

    The first 2^floor(log2 n) heads take powers of 2^(-max_bias / that many), the
    others odd powers of the root of that. No bias: slope 1, the mask as it is.
    """
    if max_bias <= 0:
        return 1.0
    whole = 2 ** int(math.log2(n_head))
    if head < whole:
        return float((2.0 ** (-max_bias / whole)) ** (head + 1))
    return float((2.0 ** (-max_bias / 2 / whole)) ** (2 * (head - whole) + 1))
