"""Quantising a strip: codes and metadata byte for byte."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import codes as bitstream
from oracle import meta, strip
from oracle.side import FIT_LS, FIT_MINMAX, LANES, META_F16, META_Q8, Side

from . import lib
from .case import ETA, values
from .guard import Guarded

BITS = (1, 2, 3, 4)
METAS = (META_F16, META_Q8)
KINDS = ("normal", "outlier", "offset", "constant", "equal", "huge", "tiny")
LANE_MASKS = (0xFFFFFFFF, 0x0000FFFF, 0x00FFFFFF, 0xFFFFFFFE, 0x80000000, 0x5A5A1234, 0)
ALL = 0xFFFFFFFF


def lanes_of(mask: int) -> NDArray[np.bool_]:
    return np.array([mask >> lane & 1 for lane in range(LANES)], bool)


def sealed(
    impl: str,
    side: Side,
    x: NDArray[np.float32],
    rows: NDArray[np.bool_] | None = None,
    mask: int = ALL,
    leader: NDArray[np.uint32] | None = None,
) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """Words and metadata as the kernels write them, over what lay there before."""
    codes = Guarded((side.strip_words,), np.uint32, 0xFFFFFFFF)
    if leader is not None:
        codes = Guarded.of(leader)
    data = Guarded((side.strip_meta,), np.uint8, 0xFF)
    row_ok = None if rows is None else rows.astype(np.uint8)
    lib.seal(impl, side, x, row_ok, mask, codes.data, data.data, leader is not None)
    codes.check()
    data.check()
    return codes.data, data.data


def strip_of(rows: int, kind: str, seed: int = 0) -> NDArray[np.float32]:
    """Rows are channels, so that "outlier" is a row and not a lane."""
    rng = np.random.default_rng([rows, seed])
    return np.ascontiguousarray(values(rng, (LANES, rows), kind).T.astype(np.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", METAS)
@pytest.mark.parametrize("bits", BITS)
def test_whole_strips(strip_impl: str, bits: int, m: int, kind: str) -> None:
    for rows in (32, 64, 72, 80, 96, 128, 256):
        side = Side(bits, m, rows, eta=ETA[bits])
        for x in (strip_of(rows, kind), strip_of(rows, kind).T.copy()[:, :LANES][:rows]):
            if x.shape != (rows, LANES):
                continue
            assert_same(sealed(strip_impl, side, x), strip.seal(x, side))


@pytest.mark.parametrize("eta", (0.0, 0.045, 1 / 6, 0.5))
@pytest.mark.parametrize("m", METAS)
@pytest.mark.parametrize("bits", BITS)
def test_relaxation(strip_impl: str, bits: int, m: int, eta: float) -> None:
    side = Side(bits, m, 64, eta=eta)
    x = strip_of(64, "normal", 1)
    assert_same(sealed(strip_impl, side, x), strip.seal(x, side))


@pytest.mark.parametrize("bits", BITS)
def test_values_half_way_between_levels(strip_impl: str, bits: int) -> None:
    """Ties, and neighbours of ties, are where an implementation rounds differently."""
    side = Side(bits, META_F16, 64)
    rng = np.random.default_rng(5)
    steps = np.arange(2 * side.levels + 1, dtype=np.float32) / np.float32(2)
    x = rng.choice(steps, (64, LANES)).astype(np.float32)
    x[:, 0], x[:, 1] = 0, side.levels
    x[1::3] = np.nextafter(x[1::3], np.float32(np.inf))
    x[2::3] = np.nextafter(x[2::3], np.float32(-np.inf))
    x *= rng.choice(np.array([1, 0.1, 3.7], np.float32), (64, 1))
    assert_same(sealed(strip_impl, side, x), strip.seal(x, side))


@pytest.mark.parametrize("mask", LANE_MASKS)
@pytest.mark.parametrize("m", METAS)
@pytest.mark.parametrize("bits", BITS)
def test_lanes_and_rows_without_data(strip_impl: str, bits: int, m: int, mask: int) -> None:
    side = Side(bits, m, 32, eta=ETA[bits])
    rng = np.random.default_rng(mask & 0xFFFF)
    x = strip_of(32, "normal", 2)
    x[:, ~lanes_of(mask)] = 9999  # must not count
    for rows in (None, rng.random(32) < 0.5, np.arange(32) == 7, np.zeros(32, bool)):
        got = sealed(strip_impl, side, x, rows, mask)
        assert_same(got, strip.seal(x, side, rows, lanes_of(mask)))


@pytest.mark.parametrize("mask", LANE_MASKS)
@pytest.mark.parametrize("m", METAS)
@pytest.mark.parametrize("bits", BITS)
def test_followers_min_and_max(strip_impl: str, bits: int, m: int, mask: int) -> None:
    """A follower leaves its leader's codes alone and writes its own scales."""
    side = Side(bits, m, 64, fit=FIT_MINMAX, eta=ETA[bits])
    leader, _ = strip.seal(strip_of(64, "normal", 3), side)
    x = strip_of(64, "normal", 4)
    got = sealed(strip_impl, side, x, None, mask, leader)
    assert_same(got, strip.seal(x, side, None, lanes_of(mask), leader))


@pytest.mark.parametrize("mask", LANE_MASKS)
@pytest.mark.parametrize("m", METAS)
@pytest.mark.parametrize("bits", BITS)
def test_followers_least_squares(strip_impl: str, bits: int, m: int, mask: int) -> None:
    """As close as the metadata's precision lets two ways of solving be."""
    side = Side(bits, m, 64, fit=FIT_LS, eta=ETA[bits])
    ours, theirs = strip_of(64, "normal", 5), strip_of(64, "constant", 6)
    leader, _ = strip.seal(theirs, side)
    x = np.ascontiguousarray(0.5 - 2 * theirs + ours * np.float32(0.2))  # scales are negative
    got_codes, got = sealed(strip_impl, side, x, None, mask, leader)
    want_codes, want = strip.seal(x, side, None, lanes_of(mask), leader)
    assert (got_codes == want_codes).all()
    for a, b in zip(meta.read(got, side), meta.read(want, side)):
        step = np.ptp(b) / 255 if m == META_Q8 else 0
        assert np.allclose(a, b, rtol=2e-3, atol=2e-3 + 1.01 * (1 + side.levels) * step)


def test_least_squares_is_the_better_fit(strip_impl: str) -> None:
    """The point of it: on a leader's codes it beats the follower's own range."""
    errors = {}
    ours, theirs = strip_of(64, "normal", 5), strip_of(64, "normal", 6)
    x = np.ascontiguousarray(theirs + ours * np.float32(0.3))
    for fit in (FIT_MINMAX, FIT_LS):
        side = Side(2, META_F16, 64, fit=fit)
        leader, _ = strip.seal(theirs, side)
        codes, data = sealed(strip_impl, side, x, leader=leader)
        errors[fit] = float(np.square(strip.unpack(codes, data, side) - x).sum())
    assert errors[FIT_LS] < errors[FIT_MINMAX]


@pytest.mark.parametrize(("bits", "m"), list(itertools.product(BITS, METAS)))
def test_no_value_is_far_from_its_level(strip_impl: str, bits: int, m: int) -> None:
    """Without relaxation an error is at most half a step, plus what the metadata loses."""
    side = Side(bits, m, 128)
    x = strip_of(128, "normal", 7)
    codes, data = sealed(strip_impl, side, x)
    step = np.ptp(x, axis=1, keepdims=True) / side.levels
    coarse = np.ptp(step) / 255 * side.levels if m == META_Q8 else 0
    coarse += np.ptp(x.max(axis=1) + x.min(axis=1)) / 255 if m == META_Q8 else 0
    assert (np.abs(strip.unpack(codes, data, side) - x) <= step * 0.502 + coarse + 4e-3).all()


def assert_same(
    got: tuple[NDArray[np.uint32], NDArray[np.uint8]],
    want: tuple[NDArray[np.uint32], NDArray[np.uint8]],
) -> None:
    assert (got[0] == want[0]).all(), "codes differ"
    assert got[1].tobytes() == want[1].tobytes(), "metadata differs"


def test_the_oracle_keeps_its_own_codes() -> None:
    """Packing loses nothing, so that the tests above compare codes and not words alone."""
    side = Side(3, META_F16, 72)
    codes = np.random.default_rng(8).integers(0, 8, (72, LANES))
    assert (bitstream.unpack(bitstream.pack(codes, side), side) == codes).all()
