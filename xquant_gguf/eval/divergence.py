"""Kullback-Leibler divergence from the f16 cache, token by token, as decoding meets it.

The packed cache decides by a token's own position which tiles it reads packed
(``cpp/format/xq_table.h``), and stock types quantise a row when it is written, so
feeding a text in batches gives the figures of feeding it one token at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .contexts import Context, Logits

Floats = npt.NDArray[np.float32]


@dataclass
class Divergence:
    """Per-token figures of one cache; arrays have one entry a scored token.

    Attributes:
        kl: KL(f16 || cache) in nats. same_top: the most likely token agrees.
        nll: negative log-likelihood of the text's next token under the cache, in nats.
    """

    kl: list[Floats] = field(default_factory=list)
    same_top: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    nll: list[Floats] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        """Means with the standard errors over tokens; perplexity; 99th percentile of KL."""
        kl, top = np.concatenate(self.kl), np.concatenate(self.same_top)
        nll = np.concatenate(self.nll)
        n = len(kl)
        return {
            "tokens": n,
            "kl_mean": float(kl.mean(dtype=np.float64)),
            "kl_se": float(kl.std(dtype=np.float64) / np.sqrt(n)),
            "kl_p99": float(np.quantile(kl, 0.99)),
            "same_top": 100 * float(top.mean()),
            "same_top_se": 100 * float(top.std() / np.sqrt(n)),
            "perplexity": float(np.exp(nll.mean(dtype=np.float64))),
        }


def log_softmax(logits: Logits) -> Logits:
    """Row-wise log-probabilities."""
    shifted: Logits = logits - logits.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def windows(tokens: Sequence[int], n_ctx: int, skip: int, wanted: int) -> list[list[int]]:
    """Cut a text into contexts until ``wanted`` tokens are scored.

    The first ``skip`` tokens of every context are not scored: nothing is packed yet.
    The last context may be shorter.
    """
    out: list[list[int]] = []
    scored = 0
    for start in range(0, len(tokens), n_ctx):
        part = list(tokens[start : start + min(n_ctx, skip + 1 + wanted - scored)])
        if len(part) < skip + 2 or scored >= wanted:
            break
        out.append(part)
        scored += len(part) - skip - 1
    return out


def measure(
    reference: Context,
    caches: Mapping[str, Context],
    texts: Sequence[Sequence[int]],
    *,
    skip: int,
    progress: Callable[[int], None] = lambda tokens: None,
) -> dict[str, Divergence]:
    """Feed every text to all caches in step and compare each token's distribution.

    Args:
        reference: the f16 cache. caches: by name; may include the reference's own type.
        texts: token lists that fit into the contexts.
        skip: first tokens of each text that are not scored.
        progress: called with the number of tokens just fed.
    """
    results = {name: Divergence() for name in caches}
    for text in texts:
        reference.clear()
        for context in caches.values():
            context.clear()
        for start in range(0, len(text) - 1, Context.BATCH):
            part = text[start : start + Context.BATCH]
            following = np.asarray(text[start + 1 : start + 1 + len(part)])
            first = max(0, skip - start)
            base = log_softmax(reference.feed(part)[: len(following)])
            for name, context in caches.items():
                mine = log_softmax(context.feed(part)[: len(following)])
                if first < len(following):
                    _score(results[name], base[first:], mine[first:], following[first:])
            progress(len(part))
    return results


def _score(into: Divergence, base: Logits, mine: Logits, following: npt.NDArray[np.int_]) -> None:
    into.kl.append((np.exp(base) * (base - mine)).sum(axis=-1))
    into.same_top.append(base.argmax(axis=-1) == mine.argmax(axis=-1))
    into.nll.append(-mine[np.arange(len(following)), following])
