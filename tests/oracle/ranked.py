"""Ranked key strips: rows of several widths, the widest for the rows of the largest range."""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

from . import codes as bitstream
from . import grid, quantise
from .side import LANES, Side

F32 = NDArray[np.float32]
Words = NDArray[np.uint32]
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]

ERROR = {0: 0.0625, 1: 0.0227, 2: 0.0075, 4: 0.00037, 8: 0.0000013}
WIDE = 4  # bits from which a row is coded by what was stored
HEAD = 20


def seal(x: F32, side: Side, lanes: NDArray[np.bool_]) -> tuple[Words, Bytes]:
    """Words and metadata of ``x`` [rows][32]; lanes without data have code 0 and count for nothing.

    Nor does a number that is not finite. A row without any is as if all its values were
    0, but has no codes.
    """
    there = lanes & np.isfinite(x)
    data = np.where(there, x, np.float32(0)).astype(np.float32)
    lo, hi = quantise.group_range(data, there)
    mean = quantise.fold(data) / np.maximum(there.sum(axis=1), 1).astype(np.float32)
    cls = classes(hi - lo, side)
    bits = np.array(side.widths)[cls]
    levels = 2**bits - 1
    half_levels = (levels / 2).astype(np.float32)
    wide = bits >= WIDE

    wanted = np.where(bits == 0, mean, np.float32(0.5) * lo + np.float32(0.5) * hi)
    mid_heads, mid_at, middle = _midpoints(wanted, cls)

    scale = np.zeros(side.rows, np.float32)
    reach = np.maximum(hi - middle, middle - lo)
    scale[wide] = reach[wide] / half_levels[wide]
    narrow = (bits == 1) | (bits == 2)
    eta = np.where(bits == 1, np.float32(side.eta), np.float32(side.eta2))
    scale[narrow] = quantise.relaxed(lo[narrow], hi[narrow], levels[narrow], eta[narrow])[0]
    scale_head, scale_at = grid.logarithmic(scale, top=15, up=wide)

    stored = grid.logarithmic_values(scale_head, scale_at)
    base, per_unit = lo.copy(), quantise.levels_per_unit(lo, hi, levels)
    base[wide] = (middle - stored * half_levels)[wide]
    per_unit[wide] = 0
    np.divide(np.float32(1), stored, out=per_unit, where=wide & (stored > 0))
    code = quantise.encode(data, base, per_unit, levels) * there

    streams = [bitstream.pack_plane(code[cls == c], side.widths[c]) for c in (3, 2, 1, 0)]
    words = np.concatenate(streams)
    return np.pad(words, (0, side.strip_words - len(words))), np.concatenate(
        [
            *(scale_head, mid_heads),
            *(np.packbits(cls >> bit & 1, bitorder="little") for bit in (0, 1)),
            (scale_at[0::2] | scale_at[1::2] << 4).astype(np.uint8),
            mid_at,
        ]
    )


def read(data: Bytes, side: Side) -> tuple[Ints, F32, F32]:
    """Class, scale and zero point of every row."""
    n = side.rows
    low, high, scales, mids = np.split(data[HEAD:], [n // 8, n // 4, n // 4 + n // 2])
    cls = np.unpackbits(low, bitorder="little") + 2 * np.unpackbits(high, bitorder="little")
    bits = np.array(side.widths)[cls]
    scale = grid.logarithmic_values(
        data[:4], np.stack([scales & 15, scales >> 4], axis=1).ravel().astype(np.int64)
    )
    heads = data[4:HEAD].reshape(4, 4)
    middle = np.choose(cls, [grid.even_values(head, mids) for head in heads])
    return cls.astype(np.int64), scale, middle - scale * ((2**bits - 1) / 2).astype(np.float32)


def codes_of(words: Words, cls: Ints, side: Side) -> Ints:
    """Codes [rows][32] of rows of these classes."""
    codes = np.zeros((side.rows, LANES), np.int64)
    at = 0
    for c in (3, 2, 1, 0):
        rows, width = cls == c, side.widths[c]
        codes[rows] = bitstream.unpack_plane(words[at:], int(rows.sum()), width)
        at += bitstream.plane_words(int(rows.sum()), width)
    return codes


def unpack(words: Words, data: Bytes, side: Side) -> F32:
    """Values [rows][32]."""
    cls, scale, zero = read(data, side)
    return zero[:, None] + scale[:, None] * codes_of(words, cls, side).astype(np.float32)


def classes(spread: F32, side: Side) -> Ints:
    """The class of every row by its range: the split of the smallest error, the first of equals."""
    order = np.argsort(-spread, kind="stable")
    sums = np.concatenate([[np.float32(0)], np.cumsum(np.square(spread[order]), dtype=np.float32)])
    ends = _splits(side)
    cost = np.zeros(len(ends), np.float32)
    start = np.zeros(len(ends), np.int64)
    for width, end in zip(side.widths[::-1], ends.T):
        cost += np.float32(ERROR[width]) * (sums[end] - sums[start])
        start = end
    best = ends[np.argmin(cost)]
    cls = np.zeros(side.rows, np.int64)
    cls[order] = 3 - np.searchsorted(best, np.arange(side.rows), side="right")
    return cls


@functools.cache
def _splits(side: Side) -> Ints:
    """Every way to deal out the words: where class 3, 2, 1 and 0 end in the order of ranges.

    Ascending by the words of class 3, then 2, then 1.
    """
    dealt = np.indices([side.words + 1] * 3).reshape(3, -1).T
    left = side.words - dealt.sum(axis=1)
    fields = [32 // width for width in side.widths[:0:-1]]
    ends = np.minimum(np.cumsum(dealt * fields, axis=1), side.rows)
    # a fine side has room for every row, a coarse side no use for words of class 0
    ok = (left >= 0) & (left * 32 >= side.rows - ends[:, 2]) if side.fine else left == 0
    return np.pad(ends[ok], ((0, 0), (0, 1)), constant_values=side.rows)


def _midpoints(wanted: F32, cls: Ints) -> tuple[Bytes, Bytes, F32]:
    """Heads of the four grids, zeros without rows; code and stored value of every row."""
    heads = np.zeros((4, 4), np.uint8)
    at = np.zeros(len(wanted), np.uint8)
    middle = np.zeros(len(wanted), np.float32)
    for c in range(4):
        rows = cls == c
        if rows.any():
            heads[c], at[rows] = grid.even(wanted[rows])
            middle[rows] = grid.even_values(heads[c], at[rows])
    return heads.ravel(), at, middle
