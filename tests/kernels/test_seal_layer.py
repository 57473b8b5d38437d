"""Sealing whole tiles out of their pages."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from oracle import meta, tile
from oracle.side import FIT_LS, FIT_MINMAX, META_F16, META_Q8, TILE
from oracle.table import Seal

from . import lib
from .case import Case, Shape
from .shapes import label

SHAPES = [
    Shape(dk=64, dv=64, heads=3, k_bits=2, v_bits=1),
    Shape(dk=80, dv=80, heads=2, k_bits=3, v_bits=3, k_meta=META_F16),
    Shape(dk=96, dv=96, heads=1, k_bits=4, v_bits=2, v_meta=META_F16),
    Shape(dk=128, dv=64, heads=2, k_bits=1, v_bits=4),
    Shape(dk=256, dv=256, heads=1, k_bits=2, v_bits=2, data="outlier"),
    Shape(dk=40, dv=72, heads=2, k_bits=3, v_bits=2, data="constant"),
    Shape(dk=64, dv=48, heads=2, k_bits=2, v_bits=3, streams=2, first_stream=1),
    Shape(dk=264, dv=512, heads=2, k_bits=3, v_bits=2, k_meta=META_F16),
    Shape(dk=512, dv=320, heads=1, k_bits=1, v_bits=3, data="outlier"),
    Shape(dk=520, dv=576, heads=1, k_bits=4, v_bits=1),
]


ROTATED = {"v_unbiased": True, "v_rotate": True}
RANKED_SHAPES = [
    Shape(dk=64, dv=64, heads=3, k_ranked=2.3, v_bits=2, data="spread", **ROTATED),
    Shape(dk=80, dv=80, heads=2, k_ranked=4.5, v_bits=3, **ROTATED),
    Shape(dk=96, dv=96, heads=2, k_ranked=1.0, v_bits=1, data="outlier", **ROTATED),
    Shape(dk=256, dv=72, heads=1, k_ranked=3.0, v_bits=4, data="constant", **ROTATED),
    Shape(dk=128, dv=32, heads=2, k_bits=2, v_bits=2, v_unbiased=True),
    Shape(dk=40, dv=64, heads=2, k_ranked=8.0, v_bits=3, streams=2, first_stream=1),
    Shape(dk=512, dv=512, heads=2, k_ranked=2.0, v_bits=2, data="spread", **ROTATED),
    Shape(dk=576, dv=512, heads=1, k_ranked=2.0, v_bits=2, data="spread", **ROTATED),
    Shape(dk=264, dv=264, heads=1, k_ranked=4.5, v_bits=4, data="offset", **ROTATED),
]
WITH_LEADERS = [(shape, follow) for shape in SHAPES for follow in (False, True)]
ALL = [*WITH_LEADERS, *((shape, False) for shape in RANKED_SHAPES)]


@pytest.mark.parametrize("threads", (1, 2, 4))
@pytest.mark.parametrize("holes", (False, True))
@pytest.mark.parametrize(
    ("shape", "follow"),
    ALL,
    ids=lambda x: label(x) if isinstance(x, Shape) else "follower" if x else "owner",
)
def test_tiles(impl: str, shape: Shape, follow: bool, holes: bool, threads: int) -> None:
    """The tiles in the list become what the oracle makes of them; no other byte changes."""
    case, _ = sealing(replace(shape, holes=holes, follow=follow, layout="pages", n_kv=96))
    check_tiles(impl, case, threads)


def check_tiles(impl: str, case: Case, threads: int = 1) -> None:
    """Seal what the case's list names; it must be the oracle's, and nothing else may change."""
    shape, store = case.shape, case.store
    want = {name: array.data.copy() for name, array in case.arrays.items()}
    expected = replace(
        store,
        k_codes=want["k_codes"],
        v_codes=want["v_codes"],
        k_meta=store.k_meta.copy(),
        v_meta=store.v_meta.copy(),
    )
    for s in case.table.seals:
        cells = np.array([s.cells >> c & 1 for c in range(TILE)], bool)
        rows = slice(s.page * TILE, (s.page + 1) * TILE)
        for head in range(shape.heads):
            at = s.stream, s.tile, head
            for key, seal in (("k", tile.seal_keys), ("v", tile.seal_values)):
                x = getattr(store, f"{key}_pages")[s.stream, rows, head].astype(np.float32)
                leader = getattr(store, f"{key}_codes")[at].copy() if shape.follow else None
                words, data = seal(x, getattr(store, key), cells, leader)
                getattr(expected, f"{key}_codes")[at] = words
                getattr(expected, f"{key}_meta")[at] = data
    lib.call("xq_api_seal_layer", impl, case.layer(case.table.ints(), threads))
    case.bytes()  # looks at the margins
    for name in ("k_codes", "v_codes", "k_meta", "v_meta"):
        assert getattr(store, name).tobytes() == getattr(expected, name).tobytes(), name
    for name in ("k_pages", "v_pages"):
        assert case.arrays[name].data.tobytes() == want[name].tobytes()


@pytest.mark.parametrize("m", (META_F16, META_Q8))
def test_followers_least_squares(impl: str, m: int) -> None:
    """Scales of a follower that fits: near the oracle's, and nearer to the data than its range."""
    errors = {}
    for fit in (FIT_LS, FIT_MINMAX):
        shape = Shape(dk=80, dv=80, follow=True, fit=fit, layout="pages", k_meta=m, v_meta=m)
        case, store = sealing(shape)
        lib.call("xq_api_seal_layer", impl, case.layer(case.table.ints()))
        errors[fit] = 0.0
        for s in case.table.seals:
            rows = slice(s.page * TILE, (s.page + 1) * TILE)
            for head in range(shape.heads):
                for i, key in enumerate("kv"):
                    x = getattr(store, f"{key}_pages")[s.stream, rows, head].astype(np.float64)
                    got = store.sealed(s.stream, s.tile, head)[i]
                    errors[fit] += float(np.square(got - x).sum())
                x = store.k_pages[s.stream, rows, head].astype(np.float32)
                at = s.stream, s.tile, head
                ones = np.ones(TILE, bool)
                _, data = tile.seal_keys(x, store.k, ones, store.k_codes[at])
                for a, b in zip(meta.read(store.k_meta[at], store.k), meta.read(data, store.k)):
                    assert np.allclose(a, b, rtol=2e-3, atol=0.05)
    assert errors[FIT_LS] < errors[FIT_MINMAX]


def sealing(shape: Shape) -> tuple[Case, object]:
    """A case with pages only, a list that seals every other tile, and codes to follow."""
    case = Case(shape)
    store = case.store
    for stream in range(shape.streams):
        for t in range(0, shape.n_tiles, 2):
            bits = sum(1 << int(c) for c in np.flatnonzero(case.cells[stream, t]))
            page = int(case.table.page[stream, t])
            case.table.seals.append(Seal(shape.first_stream + stream, t, page, bits))
    if shape.follow:
        rng = case.rng
        for codes in (store.k_codes, store.v_codes):
            codes[...] = rng.integers(0, 2**32, codes.shape, np.uint32)
    return case, store
