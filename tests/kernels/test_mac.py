"""The product of multipliers and packed codes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import codes as bitstream
from oracle.side import LANES, META_F16, Side

from . import lib
from .budgets import MAC, MAC_BYTES, MAC_OUTLIER, assert_near
from .guard import Guarded

BITS = (1, 2, 3, 4, 8)
ROWS = (32, 40, 64, 72, 80, 96, 128, 192, 256)


def product(
    impl: str, side: Side, codes: NDArray[np.int64], m: NDArray[np.float32], start: float = 0.0
) -> NDArray[np.float32]:
    """``start`` + m . codes by the kernel; multipliers are padded with zeros as it wants them."""
    padded = np.zeros((len(m), -(-side.rows // 32) * 32 + 32), np.float32)
    padded[:, : side.rows] = m
    acc = Guarded((len(m), LANES), np.float32, start)
    lib.mac(impl, side, bitstream.pack(codes, side), padded, acc.data)
    acc.check()
    return acc.data


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rows", ROWS)
def test_random(impl: str, rows: int, bits: int) -> None:
    side = Side(bits, META_F16, rows)
    rng = np.random.default_rng([rows, bits])
    for n in (1, 2, 3, 4, 5, 6, 7, 8, 13):
        codes = rng.integers(0, side.levels + 1, (rows, LANES))
        m = rng.standard_normal((n, rows)).astype(np.float32)
        want = m.astype(np.float64) @ codes
        budget = MAC_BYTES if bits == 8 else MAC
        assert_near(product(impl, side, codes, m), want, budget)
        # it adds to what is there
        assert_near(product(impl, side, codes, m, 100.0), want + 100, budget)


@pytest.mark.parametrize("sign", (1, -1))
@pytest.mark.parametrize("bits", BITS)
def test_nothing_overflows(impl: str, bits: int, sign: int) -> None:
    """Every code and every multiplier at its largest, the worst case of integer sums."""
    side = Side(bits, META_F16, 256)
    codes = np.full((256, LANES), side.levels)
    for big in (1.0, 1e-30, 1e30):
        m = np.full((7, 256), sign * big, np.float32)
        want = m.astype(np.float64) @ codes
        assert_near(product(impl, side, codes, m) / big, want / big, MAC)


@pytest.mark.parametrize("bits", BITS)
def test_row_by_row(impl: str, bits: int) -> None:
    """One multiplier at a time is exact: it is the largest, and meets its own row's codes."""
    side = Side(bits, META_F16, 72)
    codes = np.random.default_rng(bits).integers(0, side.levels + 1, (72, LANES))
    got = product(impl, side, codes, np.eye(72, dtype=np.float32))
    assert np.allclose(got, codes, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bits", BITS)
def test_zero_multipliers(impl: str, bits: int) -> None:
    side = Side(bits, META_F16, 64)
    codes = np.full((64, LANES), side.levels)
    assert (product(impl, side, codes, np.zeros((3, 64), np.float32), 2.5) == 2.5).all()


@pytest.mark.parametrize("bits", BITS)
def test_one_large_multiplier(impl: str, bits: int) -> None:
    """An outlier channel takes the precision of the others, but not of the sum."""
    side = Side(bits, META_F16, 128)
    rng = np.random.default_rng(9)
    codes = rng.integers(0, side.levels + 1, (128, LANES))
    m = rng.standard_normal((4, 128)).astype(np.float32)
    m[:, 17] *= 1000
    assert_near(product(impl, side, codes, m), m.astype(np.float64) @ codes, MAC_OUTLIER)
