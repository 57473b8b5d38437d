"""Symmetric values: two strips under one unbiased scale, byte for byte."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import codes as bitstream
from oracle import meta, strip, unbiased
from oracle.side import LANES, META_LOG8, TILE, Side

from . import lib
from .guard import Guarded
from .test_seal import KINDS, assert_same, strip_of

BITS = (1, 2, 3, 4)
SHORT = (8, 16, 24, 32)


def side_of(bits: int) -> Side:
    return Side(bits, META_LOG8, TILE, strips=2)


def strips_of(
    n: int, lanes: int, kind: str, seed: int = 0, channels: bool = False
) -> NDArray[np.float32]:
    """``n`` strips; what is odd about the kind is a token or, with ``channels``, a channel."""
    x = np.stack([strip_of(TILE, kind, seed + s) for s in range(n)])
    x = np.ascontiguousarray(x.swapaxes(1, 2)) if channels else x
    x[-1, :, lanes:] = 0
    return x


def sealed(
    impl: str,
    side: Side,
    x: NDArray[np.float32],
    lanes: int = LANES,
    rows: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Words and metadata as the kernels write them, over what lay there before."""
    codes = Guarded((len(x) * side.strip_words,), np.uint32, 0xFFFFFFFF)
    data = Guarded((side.strip_meta,), np.uint8, 0xFF)
    row_ok = None if rows is None else rows.astype(np.uint8)
    lib.seal_unbiased(impl, side, x, lanes, row_ok, codes.data, data.data)
    codes.check()
    data.check()
    return codes.data, data.data


def check(
    impl: str,
    side: Side,
    x: NDArray[np.float32],
    lanes: int = LANES,
    rows: NDArray[np.bool_] | None = None,
) -> None:
    ok = np.ones(TILE, bool) if rows is None else rows
    assert_same(sealed(impl, side, x, lanes, rows), unbiased.seal(x, side, lanes, ok))


@pytest.mark.parametrize("kind", (*KINDS, "spread"))
@pytest.mark.parametrize("n", (1, 2))
@pytest.mark.parametrize("bits", BITS)
def test_whole_strips(strip_impl: str, bits: int, n: int, kind: str) -> None:
    for lanes in SHORT:
        for channels in (False, True):
            x = strips_of(n, lanes, kind, lanes, channels)
            check(strip_impl, side_of(bits), x, lanes)


@pytest.mark.parametrize("n", (1, 2))
@pytest.mark.parametrize("bits", BITS)
def test_rows_without_data(strip_impl: str, bits: int, n: int) -> None:
    rng = np.random.default_rng([bits, n])
    for rows in (rng.random(TILE) < 0.5, np.arange(TILE) == 7, np.zeros(TILE, bool)):
        for lanes in (8, LANES):
            x = strips_of(n, lanes, "normal", 3)
            x[:, ~rows] *= 9999  # must not count
            check(strip_impl, side_of(bits), x, lanes, rows)


@pytest.mark.parametrize("n", (1, 2))
@pytest.mark.parametrize("bits", BITS)
def test_tokens_that_are_zero(strip_impl: str, bits: int, n: int) -> None:
    """No scale: the token reads as zeros, whatever its codes."""
    x = strips_of(n, LANES, "normal", 4)
    x[:, ::3] = 0
    check(strip_impl, side_of(bits), x)
    words, data = sealed(strip_impl, side_of(bits), x)
    for w in words.reshape(n, -1):
        assert (strip.unpack(w, data, side_of(bits))[::3] == 0).all()
    check(strip_impl, side_of(bits), np.zeros_like(x))


@pytest.mark.parametrize("bits", BITS)
def test_values_half_way_between_levels(strip_impl: str, bits: int) -> None:
    """Ties, and neighbours of ties, are where an implementation rounds differently."""
    rng = np.random.default_rng(6)
    for n in (1, 2):
        x = strips_of(n, LANES, "normal", 8)
        ties = np.arange(LANES) % 4 == 1
        level = rng.integers(1, 2**bits, (n, TILE, ties.sum())) - 2 ** (bits - 1)
        for _ in range(30):  # a value on a tie changes the scale, and with it where ties are
            rms = np.sqrt(np.square(x).mean(axis=(0, 2), keepdims=True))
            x[..., ties] = level * np.float32(unbiased.NORMAL_STEP[bits]) * rms
        x[:, 1::3] = np.nextafter(x[:, 1::3], np.float32(np.inf))
        x[:, 2::3] = np.nextafter(x[:, 2::3], np.float32(-np.inf))
        check(strip_impl, side_of(bits), x)


@pytest.mark.parametrize("n", (1, 2))
@pytest.mark.parametrize("bits", BITS)
def test_scales_near_the_middle_of_a_step(strip_impl: str, bits: int, n: int) -> None:
    """The last bit of a sum decides which step it is, and with it the order of adding."""
    x = strips_of(n, LANES, "normal", 7)
    for _ in range(3):
        scale = exact_scale(x, bits)
        # all within an octave: every step of the logarithm has a code of its own
        target = (np.floor(scale / scale.min() % 1 * 128) + 0.5) / 128 + 1
        x = (x * (target / scale)[:, None]).astype(np.float32)
    assert np.abs(exact_scale(x, bits) / target - 1).max() < 1e-6
    check(strip_impl, side_of(bits), x)


def exact_scale(x: NDArray[np.float32], bits: int) -> NDArray[np.float64]:
    """Scale of every row, in float64."""
    x64, top = x.astype(np.float64), 2**bits - 1
    xx = np.square(x64).sum(axis=(0, 2))
    step = unbiased.NORMAL_STEP[bits] * np.sqrt(xx / (len(x) * LANES))
    code = np.clip(np.floor(x64 / step[:, None] + top / 2 + 0.5), 0, top)
    return xx / (x64 * (code - top / 2)).sum(axis=(0, 2))


def test_scales_half_way_on_the_grid(strip_impl: str) -> None:
    """A scale exactly between two steps of the logarithm takes the upper one."""
    scale = (1 + (2 * np.arange(TILE) + 1) / 256).astype(np.float32)
    signs = np.resize(np.array([1, -1], np.float32), (2, TILE, LANES))
    x = signs * scale[:, None] / np.float32(2)
    words, data = sealed(strip_impl, side_of(1), x)
    assert_same((words, data), unbiased.seal(x, side_of(1), LANES, np.ones(TILE, bool)))
    assert (meta.read(data, side_of(1))[0] == scale + np.float32(1 / 256)).all()


@pytest.mark.parametrize("bits", BITS)
def test_the_scale_is_unbiased(strip_impl: str, bits: int) -> None:
    """<x, value> = <x, x>, but for the step of the scales' grid."""
    x = strips_of(2, LANES, "normal", 5)
    words, data = sealed(strip_impl, side_of(bits), x)
    value = np.stack([strip.unpack(w, data, side_of(bits)) for w in words.reshape(2, -1)])
    ratio = (x * value).sum(axis=(0, 2)) / np.square(x).sum(axis=(0, 2))
    assert np.abs(ratio - 1).max() < 2**-7


@pytest.mark.parametrize("bits", BITS)
def test_unpack(strip_impl: str, bits: int) -> None:
    """Any codes, any scale of the grid."""
    side = side_of(bits)
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, side.levels + 1, (TILE, LANES))
    data = rng.integers(0, 256, side.strip_meta).astype(np.uint8)
    data[:4] = np.array([120 * 128 + 5, 3], "<u2").view(np.uint8)
    data[4] = 0
    out = Guarded((TILE, LANES), np.float32, np.nan)
    lib.unpack(strip_impl, side, bitstream.pack(codes, side), data, out.data)
    out.check()
    scale = meta.read(data, side)[0].astype(np.float64)[:, None]
    want = scale * (codes - side.levels / 2)
    assert (np.abs(out.data - want) <= scale * side.levels * np.finfo(np.float32).eps).all()
    assert (out.data[0] == 0).all()
