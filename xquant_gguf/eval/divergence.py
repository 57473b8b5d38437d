"""Kullback-Leibler divergence of a cache's predictions from those of the f16 cache.

The arithmetic goes row by row over ``n_vocab`` float32 values, so that the temporary
memory is one row, which stays in the processor's cache, and one batch of f16 probabilities.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .contexts import Logits

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class TokenScores:
    """Figures of one cache, one entry a scored token.

    Attributes:
        kl: KL(f16 || cache) in nats. same_top: the most likely token agrees.
        nll: negative log-likelihood of the text's next token under the cache, in nats.
    """

    kl: Floats
    same_top: npt.NDArray[np.bool_]
    nll: Floats

    def to_json(self) -> dict[str, str]:
        """The arrays' bytes in base64: exact and short."""
        return {
            "kl": _encode(self.kl.astype("<f4")),
            "same_top": _encode(self.same_top.astype("u1")),
            "nll": _encode(self.nll.astype("<f4")),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, str]) -> TokenScores:
        """The inverse of :meth:`to_json`."""
        return cls(
            np.frombuffer(base64.b64decode(data["kl"]), "<f4"),
            np.frombuffer(base64.b64decode(data["same_top"]), "u1").astype(np.bool_),
            np.frombuffer(base64.b64decode(data["nll"]), "<f4"),
        )


class Baseline:
    """What the f16 cache predicts for some tokens.

    Args:
        logits: ``[tokens, n_vocab]``, read again by :meth:`compare`; may be a view.
    """

    def __init__(self, logits: Logits) -> None:
        self.logits = logits
        self.top = logits.argmax(axis=-1)
        self.probabilities = np.empty_like(logits)
        self.log_z = [_softmax(row, into) for row, into in zip(logits, self.probabilities)]

    def compare(self, logits: Logits, following: Sequence[int]) -> TokenScores:
        """Another cache's predictions for the same tokens.

        Args:
            logits: ``[tokens, n_vocab]``, left as they are.
            following: the text's next token after each.
        """
        n = len(self.logits)
        kl, nll = np.empty(n, np.float32), np.empty(n, np.float32)
        row = np.empty_like(self.logits[0])
        for i in range(n):
            log_z = _softmax(logits[i], row)
            # sum of p (log p - log q), with both normalisers outside of the sum
            np.subtract(self.logits[i], logits[i], out=row)
            row *= self.probabilities[i]
            kl[i] = float(row.sum()) - (self.log_z[i] - log_z)
            nll[i] = log_z - float(logits[i, following[i]])
        return TokenScores(kl, self.top == logits.argmax(axis=-1), nll)


def log_softmax(logits: Logits) -> Logits:
    """Row-wise log-probabilities."""
    shifted: Logits = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def summary(parts: Sequence[TokenScores]) -> dict[str, float]:
    """Means, perplexity and KL's 99th percentile, each with its standard error.

    Errors (``_se``) are over tokens taken as independent; that of perplexity is its own times
    the error of the mean log-likelihood, so it says how sure the text's perplexity is, not how
    sure a difference between caches on the same text.
    """
    kl = np.concatenate([part.kl for part in parts])
    top = np.concatenate([part.same_top for part in parts])
    nll = np.concatenate([part.nll for part in parts])
    n = len(kl)
    perplexity = float(np.exp(nll.mean(dtype=np.float64)))
    return {
        "tokens": n,
        "kl_mean": float(kl.mean(dtype=np.float64)),
        "kl_se": float(kl.std(dtype=np.float64) / np.sqrt(n)),
        "kl_p99": float(np.quantile(kl, 0.99)),
        "kl_p99_se": _quantile_se(kl, 0.99),
        "same_top": 100 * float(top.mean()),
        "same_top_se": 100 * float(top.std() / np.sqrt(n)),
        "perplexity": perplexity,
        "perplexity_se": perplexity * float(nll.std(dtype=np.float64) / np.sqrt(n)),
    }


def _quantile_se(values: Floats, q: float) -> float:
    """Half the distance between the quantiles one binomial standard error away on either side."""
    error = math.sqrt(q * (1 - q) / len(values))
    low, high = np.quantile(values, [max(q - error, 0), min(q + error, 1)])
    return float(high - low) / 2


def _softmax(row: Floats, into: Floats) -> float:
    """Write a row's probabilities; return the logarithm of the sum of its exponentials."""
    peak = row.max()
    np.subtract(row, peak, out=into)
    np.exp(into, out=into)
    total = into.sum()
    into /= total
    return float(peak) + float(np.log(total))


def _encode(array: npt.NDArray[np.generic]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
