"""The rotation of values."""

from __future__ import annotations

import numpy as np
import pytest
from oracle.rotate import rotate

from . import lib
from .guard import Guarded

BLOCKS = (8, 16, 32, 64)
BLUNT = 1e-6
"""Six additions in f32, against the largest sum that they can make."""


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("blocks", (1, 2, 3, 5))
def test_against_the_matrix(strip_impl: str, blocks: int, block: int) -> None:
    x = np.random.default_rng([blocks, block]).standard_normal(blocks * block).astype(np.float32)
    for size in (1e-6, 1, 1e4):
        got = Guarded.of(x * np.float32(size))
        want = rotate(got.data, block)
        lib.rotate(strip_impl, got.data, block)
        got.check()
        assert np.abs(got.data - want).max() <= BLUNT * size * np.abs(x).sum()


@pytest.mark.parametrize("block", BLOCKS)
def test_twice_is_nothing(strip_impl: str, block: int) -> None:
    x = np.random.default_rng(block).standard_normal(2 * block).astype(np.float32)
    got = Guarded.of(x)
    lib.rotate(strip_impl, got.data, block)
    assert np.abs(got.data - x).max() > 0.1
    lib.rotate(strip_impl, got.data, block)
    got.check()
    assert np.allclose(got.data, x, atol=BLUNT * np.abs(x).sum())


@pytest.mark.parametrize("block", BLOCKS)
def test_channel_by_channel(strip_impl: str, block: int) -> None:
    """An outlier is spread evenly over its block, and stays out of the others."""
    for channel in range(block):
        x = np.zeros(2 * block, np.float32)
        x[block + channel] = 8
        want = rotate(x, block)
        lib.rotate(strip_impl, x, block)
        assert (x[:block] == 0).all()
        assert np.allclose(np.abs(x[block:]), 8 / np.sqrt(block), rtol=1e-6)
        assert np.allclose(x, want, rtol=1e-6)
