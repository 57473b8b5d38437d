"""How far the 2-bit codes of the two layers of a pair agree, beside what chance would give.

Codes are those of the uniform format: keys grouped by channel over the 32 tokens of a tile,
values by token over 32 channels, between minimum and maximum. Only whole tiles count.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

import numpy as np
import numpy.typing as npt

from .._checks import TILE
from ..config import resolve_kv
from ..errors import UnsupportedModelError
from ..eval.contexts import Context, Model
from .kv_rows import LayerRows, Rows, read_rows
from .shapes import Shape

Codes = npt.NDArray[np.int8]

_TOP = 3  # largest 2-bit code


def read_agreement(
    model: Model, shapes: Sequence[Shape], text: Sequence[int], threads: int
) -> list[dict[str, Any]]:
    """:func:`pair_agreement` of a text; empty where the model's keys cannot be read."""
    f16 = resolve_kv("f16")
    with closing(Context(model, f16, n_ctx=len(text), threads=threads)) as context:
        context.feed(text, logits="last")
        try:
            rows = read_rows(context)
        except UnsupportedModelError:
            return []
    return pair_agreement(shapes, rows) if len(rows) == len(shapes) else []


def pair_agreement(shapes: Sequence[Shape], rows: Sequence[LayerRows]) -> list[dict[str, Any]]:
    """For the pairs (0, 1), (2, 3), ... of packed layers: agreement of key and value codes.

    Each side has ``agreement`` and ``chance`` (parts of all codes that are the same, and that
    would be if the layers had nothing to do with each other) and ``above_chance``,
    ``(agreement - chance) / (1 - chance)``. Pairs of different shapes are left out.
    """
    found = []
    for first in range(0, len(shapes) - 1, 2):
        a, b = shapes[first], shapes[first + 1]
        if (a.heads, a.dk, a.dv) != (b.heads, b.dk, b.dv):
            continue
        one, two = rows[first], rows[first + 1]
        found.append(
            {
                "layers": [a.il, b.il],
                "k": compare(key_codes(one.k), key_codes(two.k)),
                "v": compare(value_codes(one.v, a.dv), value_codes(two.v, b.dv)),
            }
        )
    return found


def key_codes(rows: Rows) -> Codes:
    """2-bit codes of ``[tokens, channels]``, a group being one channel of a tile."""
    whole = len(rows) // TILE * TILE
    return _codes(rows[:whole].reshape(-1, TILE, rows.shape[1]), axis=1)


def value_codes(rows: Rows, head_dim: int) -> Codes:
    """2-bit codes of ``[tokens, heads * head_dim]``, a group being up to 32 channels of a token."""
    whole = len(rows) // TILE * TILE
    heads = rows[:whole].reshape(whole, -1, head_dim)
    strips = [heads[:, :, i : i + TILE] for i in range(0, head_dim, TILE)]
    return np.concatenate([_codes(strip, axis=2).ravel() for strip in strips])


def compare(a: Codes, b: Codes) -> dict[str, float]:
    """Agreement of two sets of codes, see :func:`pair_agreement`."""
    same = float((a == b).mean())
    chance = float(_shares(a) @ _shares(b))
    above = (same - chance) / (1 - chance) if chance < 1 else 0.0
    return {"agreement": same, "chance": chance, "above_chance": above}


def _codes(groups: Rows, *, axis: int) -> Codes:
    low = groups.min(axis=axis, keepdims=True)
    span = groups.max(axis=axis, keepdims=True) - low
    inverse = np.divide(_TOP, span, out=np.zeros_like(span), where=span > 0)
    codes: Codes = ((groups - low) * inverse + 0.5).astype(np.int8)
    return codes


def _shares(codes: Codes) -> npt.NDArray[np.float64]:
    counts = np.bincount(codes.ravel(), minlength=_TOP + 1)
    return counts / max(1, codes.size)
