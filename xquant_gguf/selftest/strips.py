"""A strip sealed or dequantised, and how far an implementation's bytes are from the reference's."""

from __future__ import annotations

import numpy as np

from .checks import bytes_off
from .data import numbers
from .fenced import Fenced
from .kernels import REFERENCE, Bytes, Floats, Kernels, Words
from .sides import LANES, Side

ALL = 0xFFFFFFFF
"""Every lane holds data."""

Sealed = tuple[Words, Bytes]


def channels(source: np.random.Generator, dim: int, kind: str) -> Floats:
    """``[dim, 32]`` numbers. Rows are channels: what is odd about a kind is a row."""
    return np.ascontiguousarray(numbers(source, (LANES, dim), kind).T.astype(np.float32))


def _fences(words: int, size: int, leader: Words | None) -> tuple[Fenced, Fenced]:
    codes = Fenced.full((words,), np.uint32, ALL) if leader is None else Fenced(leader)
    return codes, Fenced.full((size,), np.uint8, 0xFF)


def sealed(
    kernels: Kernels, name: str, side: Side, x: Floats, *, leader: Words | None = None
) -> Sealed:
    codes, meta = _fences(kernels.strip_words(side), kernels.meta_bytes(side), leader)
    kernels.seal(name, side, x, None, ALL, codes.data, meta.data, leader=leader is not None)
    return codes.data, meta.data


def differ(
    kernels: Kernels,
    name: str,
    side: Side,
    x: Floats,
    rows: Bytes | None,
    mask: int,
    leader: Words | None = None,
) -> int:
    """Bytes in which a sealed strip differs from the reference's, and bytes beyond it."""
    made = []
    for impl in (name, REFERENCE):
        pair = _fences(kernels.strip_words(side), kernels.meta_bytes(side), leader)
        codes, meta = (fence.data for fence in pair)
        kernels.seal(impl, side, x, rows, mask, codes, meta, leader=leader is not None)
        made.append(pair)
    return _apart(*made)


def sealed_unbiased(
    kernels: Kernels, name: str, side: Side, x: Floats, lanes: int, rows: Bytes | None
) -> tuple[Fenced, Fenced]:
    pair = _fences(len(x) * kernels.strip_words(side), kernels.meta_bytes(side), None)
    kernels.seal_unbiased(name, side, x, lanes, rows, pair[0].data, pair[1].data)
    return pair


def unbiased_differ(
    kernels: Kernels, name: str, side: Side, x: Floats, lanes: int, rows: Bytes | None
) -> int:
    return _apart(
        *(sealed_unbiased(kernels, impl, side, x, lanes, rows) for impl in (name, REFERENCE))
    )


def _apart(got: tuple[Fenced, Fenced], want: tuple[Fenced, Fenced]) -> int:
    return sum(a.broken + bytes_off(a.data, b.data) for a, b in zip(got, want))


def unpacked(kernels: Kernels, side: Side, codes: Words, meta: Bytes) -> Floats:
    out = np.full((side.rows, LANES), np.nan, np.float32)
    kernels.unpack(REFERENCE, side, codes, meta, out)
    return out
