"""Shapes of layers in random company: every value of every property about equally often."""

from __future__ import annotations

from typing import Any

import numpy as np

from .case import Shape

Properties = list[dict[str, Any]]

FEATURES: Properties = [
    {},
    {"softcap": 5.0},
    {"max_bias": 8.0},
    {"sinks": True},
    {"softcap": 30.0, "max_bias": 4.0, "sinks": True},
    {"holes": True, "blind": True},
]
DIMS = [(64, 64), (80, 80), (96, 96), (128, 128), (256, 256), (128, 64), (64, 96), (192, 128)]
DIMS += [
    (264, 320),
    (512, 512),
    (576, 512),
]  # keys of two strips, with rows behind the last channel; of three
STREAMS = [(1, 0), (1, 0), (2, 0), (1, 2), (3, 1)]


def deal(n: int, *forms: Properties) -> list[Shape]:
    """``n`` shapes; ``forms`` are what the tiles look like, beside all else that varies."""
    rng = np.random.default_rng(2510)
    columns = [
        *forms,
        [{"dk": k, "dv": v} for k, v in DIMS],
        [{"group": g} for g in (1, 2, 3, 7, 8)],
        [{"heads": h} for h in (1, 2, 3)],
        [{"tokens": t} for t in (1, 2, 3, 5, 17, 33, 64, 100)],
        [{"streams": s, "first_stream": first} for s, first in STREAMS],
        [{"n_kv": kv} for kv in (1, 20, 32, 33, 95, 128, 161, 230)],
        [{"layout": at} for at in ("mixed", "mixed", "boundary", "sealed", "pages")],
    ]
    hands: Properties = [{"seed": i} for i in range(n)]
    for column in columns:
        dealt = [column[i % len(column)] for i in range(n)]
        for hand, card in zip(hands, rng.permutation(n)):
            hand.update(dealt[card])
    return [Shape(**hand) for hand in hands]


def label(s: Shape) -> str:
    """A name for the test of a shape."""
    k = f"r{s.k_ranked:g}" if s.k_ranked else s.k_bits
    v = f"u{s.v_bits}" if s.v_unbiased else s.v_bits
    return f"k{k}v{v}-{s.dk}x{s.dv}-g{s.group}-t{s.tokens}x{s.streams}-kv{s.n_kv}"
