"""Sizes and the bit layout of codes."""

from __future__ import annotations

import numpy as np
import pytest
from oracle import codes as bitstream
from oracle import meta
from oracle.side import LANES, META_F16, META_LOG8, META_Q8, Side

from . import lib
from .conftest import KNOWN
from .guard import Guarded

BITS = (1, 2, 3, 4)
ROWS = (32, 40, 64, 72, 80, 96, 128, 192, 256)


def test_no_implementation_is_left_out() -> None:
    assert set(lib.implementations()) <= set(KNOWN)


def test_the_generic_kernels_are_always_there() -> None:
    assert "generic" in lib.implementations()


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rows", ROWS)
def test_sizes(rows: int, bits: int) -> None:
    for m in (META_F16, META_Q8, META_LOG8):
        side = Side(bits, m, rows)
        assert lib.size("xq_api_strip_words", side) == side.strip_words
        assert lib.size("xq_api_meta_bytes", side) == side.strip_meta


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rows", ROWS)
def test_code_by_code(strip_impl: str, rows: int, bits: int) -> None:
    """Scale 1 and zero 0 show the codes themselves."""
    side = Side(bits, META_F16, rows)
    codes = np.random.default_rng(rows).integers(0, side.levels + 1, (rows, LANES))
    words = bitstream.pack(codes, side)
    assert (bitstream.unpack(words, side) == codes).all()
    data = meta.write(np.ones(rows, np.float32), np.zeros(rows, np.float32), side)
    out = Guarded((rows, LANES), np.float32, np.nan)
    lib.unpack(strip_impl, side, words, data, out.data)
    out.check()
    assert (out.data == codes).all()


@pytest.mark.parametrize("bits", BITS)
def test_where_a_code_lies(strip_impl: str, bits: int) -> None:
    """One code set, looked up by the sentence in xq_format.h."""
    side = Side(bits, META_F16, 80)
    for row, lane in ((0, 0), (0, 31), (15, 1), (16, 7), (31, 30), (32, 2), (79, 31)):
        x = np.zeros((80, LANES), np.float32)
        x[row, lane] = 1.0
        words = np.full(side.strip_words, 0xFFFFFFFF, np.uint32)
        data = np.zeros(side.strip_meta, np.uint8)
        lib.seal(strip_impl, side, x, None, 0xFFFFFFFF, words, data)
        want = np.zeros(side.strip_words, np.uint32)
        start = 0
        for width in side.planes:
            word = row * width // 32 * LANES + lane
            want[start + word] = (2**width - 1) << (row * width % 32)
            start += -(-80 * width // 32) * LANES
        assert (words == want).all(), (row, lane)


@pytest.mark.parametrize("m", (META_F16, META_Q8))
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rows", ROWS)
def test_unpack(strip_impl: str, rows: int, bits: int, m: int) -> None:
    """Values may differ by the rounding of one fused multiply-add."""
    side = Side(bits, m, rows)
    rng = np.random.default_rng([rows, bits, m])
    codes = rng.integers(0, side.levels + 1, (rows, LANES))
    scale, zero = rng.standard_normal((2, rows)).astype(np.float32)
    data = meta.write(scale, zero, side)
    scale, zero = meta.read(data, side)
    out = Guarded((rows, LANES), np.float32, np.nan)
    lib.unpack(strip_impl, side, bitstream.pack(codes, side), data, out.data)
    out.check()
    want = zero[:, None].astype(np.float64) + scale[:, None].astype(np.float64) * codes
    size = np.abs(zero)[:, None] + np.abs(scale)[:, None] * codes
    assert (np.abs(out.data - want) <= size * np.finfo(np.float32).eps).all()
