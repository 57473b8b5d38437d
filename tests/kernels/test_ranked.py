"""Ranked key strips: classes, codes and metadata byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import ranked, strip
from oracle.side import LANES, META_F16, Side, ranked_side

from . import lib
from .case import ETA, words_of
from .guard import Guarded
from .test_format import ROWS
from .test_seal import ALL, KINDS, LANE_MASKS, assert_same, lanes_of, sealed, strip_of

BITS = (1.0, 1.5, 2.3, 3.0, 3.9, 4.0, 4.5, 6.0, 8.0)
SPREAD = "spread"


def side_of(rows: int, bits: float) -> Side:
    return ranked_side(rows, words_of(bits, rows), ETA[1], ETA[2])


def narrowest(rows: int) -> int:
    """Words of the smallest fine side."""
    return -(-rows // 8)


@pytest.mark.parametrize("rows", ROWS)
def test_sizes(rows: int) -> None:
    for words in (1, narrowest(rows) - 1, narrowest(rows), rows // 4):
        side = ranked_side(rows, words)
        assert lib.size("xq_api_strip_words", side) == words * LANES
        assert lib.size("xq_api_meta_bytes", side) == side.strip_meta


@pytest.mark.parametrize("kind", (*KINDS, SPREAD))
@pytest.mark.parametrize("rows", ROWS)
def test_whole_strips(strip_impl: str, rows: int, kind: str) -> None:
    x = strip_of(rows, kind)
    for bits in BITS:
        side = side_of(rows, bits)
        assert_same(sealed(strip_impl, side, x), strip.seal(x, side))


@pytest.mark.parametrize("rows", (32, 40, 72))
def test_every_size(strip_impl: str, rows: int) -> None:
    """From one word, which leaves most rows a mean alone, to a byte for every row."""
    for words in range(1, rows // 4 + 1):
        side = ranked_side(rows, words, ETA[1], ETA[2])
        for seed, kind in enumerate((SPREAD, "normal", "outlier")):
            x = strip_of(rows, kind, seed)
            assert_same(sealed(strip_impl, side, x), strip.seal(x, side))


@pytest.mark.parametrize("mask", LANE_MASKS)
@pytest.mark.parametrize("bits", (1.0, 2.3, 4.5))
def test_lanes_without_data(strip_impl: str, bits: float, mask: int) -> None:
    for rows in (40, 64):
        side = side_of(rows, bits)
        for kind in (SPREAD, "offset"):
            x = strip_of(rows, kind, 2)
            x[:, ~lanes_of(mask)] = 9999  # must not count
            want = strip.seal(x, side, lanes=lanes_of(mask))
            assert_same(sealed(strip_impl, side, x, mask=mask), want)


@pytest.mark.parametrize("bits", (1.0, 2.3, 3.9, 4.5))
def test_ties(strip_impl: str, bits: float) -> None:
    """Of rows with the same range the lower one ranks first; half way between two codes is up."""
    rng = np.random.default_rng(11)
    for rows in (40, 96, 256):
        side = side_of(rows, bits)
        x = rng.integers(0, 31, (rows, LANES)).astype(np.float32) / np.float32(2)
        x[:, 0], x[:, 1] = 0, 15
        assert_same(sealed(strip_impl, side, x), strip.seal(x, side))
        x *= rng.choice(np.array([0.5, 1, 4], np.float32), (rows, 1))
        x += rng.choice(np.array([-3, 0, 20], np.float32), (rows, 1))
        assert_same(sealed(strip_impl, side, x), strip.seal(x, side))


@pytest.mark.parametrize("words", (3, 6, 9, 11))
def test_the_last_bit_of_a_range_decides(strip_impl: str, words: int) -> None:
    """Where one split of the words takes over from another, f32 steps in their order count."""
    side = ranked_side(64, words, ETA[1], ETA[2])
    rng = np.random.default_rng(words)
    for _ in range(8):
        x = rng.random((64, LANES)).astype(np.float32)
        x[:, 0], x[:, 1] = 0, 1
        x *= rng.uniform(0.8, 1.2, (64, 1)).astype(np.float32)
        grow = np.arange(64) < 20
        low, high = np.float32(0.01), np.float32(1)
        start = split_of(grown(x, grow, low), side)
        assert split_of(grown(x, grow, high), side) != start
        while np.nextafter(low, high) < high:
            middle = (low + high) / np.float32(2)
            if split_of(grown(x, grow, middle), side) == start:
                low = middle
            else:
                high = middle
        for factor in (low, high):
            y = grown(x, grow, factor)
            assert_same(sealed(strip_impl, side, y), strip.seal(y, side))


def grown(
    x: NDArray[np.float32], rows: NDArray[np.bool_], factor: np.float32
) -> NDArray[np.float32]:
    return np.where(rows[:, None], x * factor, x)


def split_of(x: NDArray[np.float32], side: Side) -> list[int]:
    """Rows in every class."""
    cls = ranked.classes(np.ptp(x, axis=1), side)
    return np.bincount(cls, minlength=4).tolist()


def test_scales_half_way_on_the_grid(strip_impl: str) -> None:
    """A scale exactly between two steps of the logarithm takes the upper one."""
    x = np.zeros((64, LANES), np.float32)
    x[:, 1] = 1 + (2 * (np.arange(64) % 14) + 1) / 256
    side = ranked_side(64, 2)  # one bit for each: without relaxation the scale is the range
    words, data = sealed(strip_impl, side, x)
    assert_same((words, data), strip.seal(x, side))
    cls, scale, _ = ranked.read(data, side)
    assert (cls == 1).all()
    assert (scale == x[:, 1] + np.float32(1 / 256)).all()


def test_sums_that_cancel(strip_impl: str) -> None:
    """The mean of a row without codes shows in which order its lanes were added."""
    rng = np.random.default_rng(12)
    for mask in (ALL, 0x7FFFFFF7):
        x = rng.standard_normal((64, LANES)).astype(np.float32) * 16
        for row in x:
            up, down = rng.choice(np.flatnonzero(lanes_of(mask)), 2, replace=False)
            row[up], row[down] = 2.0**26, -(2.0**26)
        side = ranked_side(64, 1)
        want = strip.seal(x, side, lanes=lanes_of(mask))
        assert_same(sealed(strip_impl, side, x, mask=mask), want)


@pytest.mark.parametrize("bits", (1.0, 2.3, 4.5))
def test_negative_zeros(strip_impl: str, bits: float) -> None:
    """Zeros of either sign are the same number, and make the same bytes."""
    rng = np.random.default_rng(13)
    side = side_of(64, bits)
    x = np.zeros((64, LANES), np.float32)
    x[::4] = rng.random((16, LANES))
    want = strip.seal(x, side)
    x[(x == 0) & (rng.random(x.shape) < 0.5)] = -0.0
    x[5] = -0.0
    assert_same(sealed(strip_impl, side, x), want)


@pytest.mark.parametrize("bits", (1.0, 2.3, 4.5))
def test_relaxation(strip_impl: str, bits: float) -> None:
    """1-bit and 2-bit rows have a relaxation each, wider rows none."""
    x = strip_of(64, SPREAD, 3)
    for eta, eta2 in ((0, 0), (0.5, 0), (0, 0.5), (0.1, 0.3)):
        side = ranked_side(64, words_of(bits, 64), eta, eta2)
        assert_same(sealed(strip_impl, side, x), strip.seal(x, side))


def test_where_a_code_lies(strip_impl: str) -> None:
    """An example looked up by the sentences of xq_ranked.h.

    80 channels in 5 words of a lane. Eight rows of large range get 4 bits: one word.
    Of the others, all alike, the lower 48 get 2 bits, which takes three words, and the
    last 24 one bit, in three quarters of the fifth word.
    """
    four = [0, 5, 9, 10, 30, 40, 69, 70]
    rest = [row for row in range(80) if row not in four]
    two, one = rest[:48], rest[48:]
    side = ranked_side(80, 5)
    for row, width, bit in (
        (5, 4, 1 * 4),  # field 1 of the first word
        (70, 4, 7 * 4),
        (1, 2, 32),
        (two[16], 2, 64),
        (two[47], 2, 96 + 30),
        (one[0], 1, 128),
        (one[23], 1, 128 + 23),
    ):
        x = np.zeros((80, LANES), np.float32)
        x[rest, 0] = 1
        x[four, 0] = 100
        x[row] = x[row, 0] - x[row]  # in lane 0 every row but this one has its largest code
        words, data = sealed(strip_impl, side, x)
        low, high = (np.unpackbits(data[at : at + 10], bitorder="little") for at in (20, 30))
        assert [np.flatnonzero(low + 2 * high == c).tolist() for c in range(4)] == [
            *([], one, two, four)
        ]
        lanes = words.reshape(5, LANES)
        want = np.zeros(5, np.uint32)
        want[bit // 32] = (2**width - 1) << bit % 32
        full = np.array([2**32 - 1] * 4 + [2**24 - 1], np.uint32)
        assert (lanes[:, 0] == full - want).all(), row
        assert (lanes[:, 1:] == want[:, None]).all(), row


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rows", ROWS)
def test_unpack(strip_impl: str, rows: int, bits: float) -> None:
    """Any classes that fit, any codes, any place on the grids."""
    side = side_of(rows, bits)
    words, data = random_strip(side, np.random.default_rng([rows, side.words]))
    out = Guarded((rows, LANES), np.float32, np.nan)
    lib.unpack(strip_impl, side, words, data, out.data)
    out.check()
    cls, scale, zero = (a.astype(np.float64) for a in ranked.read(data, side))
    code = ranked.codes_of(words, cls, side)
    want = zero[:, None] + scale[:, None] * code
    size = np.abs(zero)[:, None] + scale[:, None] * code
    assert (np.abs(out.data - want) <= size * np.finfo(np.float32).eps).all()


def random_strip(
    side: Side, rng: np.random.Generator
) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    x = rng.standard_normal((side.rows, LANES)) * 2 ** rng.uniform(-6, 6, (side.rows, 1))
    x += rng.standard_normal((side.rows, 1)) * 10
    words, data = strip.seal(x.astype(np.float32), side)
    data[ranked.HEAD + side.rows // 4 :] = rng.integers(0, 256, side.rows * 3 // 2)
    return rng.integers(0, 2**32, words.shape, np.uint32), data


@pytest.mark.parametrize("bits", (4.0, 4.5, 6.0, 8.0))
def test_wide_rows_reach_their_ends(strip_impl: str, bits: float) -> None:
    """A row of 4 or 8 bits is off by half a step at most, wherever its midpoint was stored."""
    side = side_of(128, bits)
    for kind in ("normal", "offset", SPREAD):
        x = strip_of(128, kind, 5)
        words, data = sealed(strip_impl, side, x)
        cls, scale, _ = ranked.read(data, side)
        wide = np.array(side.widths)[cls] >= 4
        off = np.abs(strip.unpack(words, data, side) - x)[wide]
        assert (off <= scale[wide, None] * 0.5001 + np.abs(x[wide]) * 1e-6).all()


@pytest.mark.parametrize("bits", (1, 2, 3, 4))
def test_better_than_equal_widths(strip_impl: str, bits: int) -> None:
    """The point of it: with channels of many ranges the error is far lower at the same size."""
    x = strip_of(128, SPREAD, 6)
    errors = []
    for side in (side_of(128, bits), Side(bits, META_F16, 128, eta=ETA[bits])):
        words, data = sealed(strip_impl, side, x)
        errors.append(float(np.square(strip.unpack(words, data, side) - x).sum()))
    assert errors[0] < 0.5 * errors[1]
