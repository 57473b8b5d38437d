"""Nobody reads or writes the stored examples differently: not the oracle, not a kernel."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from kernels import lib
from kernels.conftest import impl, strip_impl  # noqa: F401
from numpy.typing import NDArray
from oracle.side import LANES, Side

from .make import FILE, format_version, make, sides, unpacked

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
    ok = golden()["cells"][cells]
    for which, side in zip("kv", sides()[name]):
        words, data = [], []
        for x, row_ok, mask in strips_of(which, side, ok):
            w = np.zeros(side.strip_words, np.uint32)
            m = np.zeros(side.strip_meta, np.uint8)
            lib.seal(strip_impl, side, x, row_ok, mask, w, m)
            words.append(w)
            data.append(m)
        assert (np.concatenate(words) == golden()[f"{name}_{which}{cells}_words"]).all()
        assert (np.concatenate(data) == golden()[f"{name}_{which}{cells}_meta"]).all()


@pytest.mark.parametrize("name", NAMES)
def test_unpack(strip_impl: str, name: str) -> None:  # noqa: F811
    for which, side in zip("kv", sides()[name]):
        words = golden()[f"{name}_{which}0_words"].reshape(side.strips, -1)
        data = golden()[f"{name}_{which}0_meta"].reshape(side.strips, -1)
        want = golden()[f"{name}_{which}_unpacked"]
        assert (unpacked(words.ravel(), data.ravel(), side)[:, ::8] == want).all()
        for s in range(side.strips):
            out = np.empty((side.rows, LANES), np.float32)
            lib.unpack(strip_impl, side, words[s].copy(), data[s].copy(), out)
            assert np.allclose(out[::8], want[s], rtol=1e-6, atol=1e-6)


def strips_of(
    which: str, side: Side, ok: NDArray[np.bool_]
) -> list[tuple[NDArray[np.float32], NDArray[np.uint8] | None, int]]:
    """Input, rows and lanes of every strip, as the format's comment has them."""
    tile = golden()["keys" if which == "k" else "values"].astype(np.float32)
    if which == "k":
        mask = sum(1 << int(c) for c in np.flatnonzero(ok))
        return [(np.ascontiguousarray(tile.T), None, mask)]
    strips = []
    for s in range(side.strips):
        n = side.lanes(s)
        x = np.zeros((side.rows, LANES), np.float32)
        x[:, :n] = tile[:, s * LANES : s * LANES + n]
        strips.append((x, ok.astype(np.uint8), 2**n - 1))
    return strips
