"""Nobody reads or writes the stored examples differently: not the oracle, not a kernel."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from kernels import lib
from kernels.conftest import impl, strip_impl  # noqa: F401
from numpy.typing import NDArray
from oracle import tile
from oracle.rotate import block_of
from oracle.side import LANES, META_LOG8, Side

from .make import DR, FILE, format_version, input_of, make, sides

NAMES = tuple(sides())


@functools.cache
def golden() -> dict[str, NDArray[Any]]:
    with np.load(FILE) as stored:
        return dict(stored)


def test_version() -> None:
    """A new format version needs new vectors, and changed vectors a new version."""
    assert int(golden()["version"]) == format_version(), (
        "XQ_FORMAT_VERSION is not that of the golden vectors: run tests/golden/make.py"
    )


def test_oracle() -> None:
    """The oracle still makes them as they are."""
    made = make()
    assert made.keys() == golden().keys()
    for name, array in made.items():
        assert array.tobytes() == golden()[name].tobytes(), name


@pytest.mark.parametrize("cells", (0, 1), ids=("whole", "holes"))
@pytest.mark.parametrize("name", NAMES)
def test_seal(strip_impl: str, name: str, cells: int) -> None:  # noqa: F811
    side, ok = sides()[name], golden()["cells"][cells]
    x = input_of(golden(), name, side)
    seal = seal_keys if name[0] == "k" else seal_values
    words, data = zip(*seal(strip_impl, side, x, ok))
    assert (np.concatenate(words) == golden()[f"{name}{cells}_words"]).all()
    assert (np.concatenate(data) == golden()[f"{name}{cells}_meta"]).all()


@pytest.mark.parametrize("name", NAMES)
def test_unpack(strip_impl: str, name: str) -> None:  # noqa: F811
    side = sides()[name]
    words = golden()[f"{name}0_words"].reshape(side.strips, -1)
    data = golden()[f"{name}0_meta"].reshape(-1, side.strip_meta)
    want = golden()[f"{name}_unpacked"]
    strips = np.empty((side.strips, side.rows, LANES), np.float32)
    for s in range(side.strips):
        lib.unpack(strip_impl, side, words[s].copy(), data[s // side.shared].copy(), strips[s])
    channels = strips.reshape(-1, LANES).T
    tokens = channels if name[0] == "k" else strips.swapaxes(0, 1).reshape(side.rows, -1)
    got = tokens[:, ::8][:, : want.shape[1]]
    assert np.allclose(got, want, rtol=1e-6, atol=1e-6)


def test_rotation(strip_impl: str) -> None:  # noqa: F811
    x = golden()["plain"].astype(np.float32)
    lib.rotate(strip_impl, x, block_of(DR))
    assert np.allclose(x, golden()["rotated"].astype(np.float32), rtol=1e-3, atol=1e-5)


Strips = list[tuple[NDArray[np.uint32], NDArray[np.uint8]]]


def seal_keys(
    strip_impl: str,  # noqa: F811
    side: Side,
    x: NDArray[np.float32],
    ok: NDArray[np.bool_],
) -> Strips:
    """Channels are rows, with zeros behind the last; empty cells are lanes without data."""
    mask = sum(1 << int(c) for c in np.flatnonzero(ok))
    channels = np.zeros((side.strips * side.rows, LANES), np.float32)
    channels[: x.shape[1]] = x.T
    sealed = []
    for strip in channels.reshape(side.strips, -1, LANES):
        words, data = np.zeros(side.strip_words, np.uint32), np.zeros(side.strip_meta, np.uint8)
        lib.seal(strip_impl, side, strip, None, mask, words, data)
        sealed.append((words, data))
    return sealed


def seal_values(
    strip_impl: str,  # noqa: F811
    side: Side,
    x: NDArray[np.float32],
    ok: NDArray[np.bool_],
) -> Strips:
    """Tokens are rows, empty cells rows without data."""
    strips = tile.cut(x)
    sealed = []
    for s in range(0, side.strips, side.shared):
        some = strips[s : s + side.shared]
        lanes = side.lanes(s + len(some) - 1)
        words = np.zeros(len(some) * side.strip_words, np.uint32)
        data = np.zeros(side.strip_meta, np.uint8)
        row_ok = ok.astype(np.uint8)
        if side.meta == META_LOG8:
            lib.seal_unbiased(strip_impl, side, some, lanes, row_ok, words, data)
        else:
            lib.seal(strip_impl, side, some[0], row_ok, 2**lanes - 1, words, data)
        sealed.append((words, data))
    return sealed
