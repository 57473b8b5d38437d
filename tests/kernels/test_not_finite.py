"""Numbers that are not finite: other tokens of a tile, and who does not see them, stay clean."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from oracle import meta, strip, unbiased
from oracle.side import FIT_LS, LANES, META_F16, META_Q8, TILE, Side
from oracle.table import NOT_SEALED

from .budgets import ATTENTION, assert_near
from .case import ETA, Case, Shape
from .test_ranked import side_of as ranked_of
from .test_seal import ALL, lanes_of, sealed, strip_of
from .test_seal import assert_same as same
from .test_seal_layer import check_tiles, sealing
from .test_unbiased import sealed as sealed_unbiased
from .test_unbiased import side_of as unbiased_of
from .test_unbiased import strips_of

BITS = (1, 2, 3, 4)
BAD = (np.nan, np.inf, -np.inf)
KINDS = ("token", "some", "row", "all")
ROTATED = {"v_unbiased": True, "v_rotate": True}


def spoilt(x: NDArray[np.float32], kind: str, lane: int = 5) -> NDArray[np.float32]:
    """A strip [rows][32] in which a lane, some numbers, a row or all of them are not finite."""
    x = x.copy()
    bad = np.resize(np.array(BAD, np.float32), x.shape)
    where = np.zeros(x.shape, bool)
    if kind == "token":
        where[:, lane] = True
    elif kind == "some":
        where = np.random.default_rng(len(x)).random(x.shape) < 0.05
        where[1] = False
    elif kind == "row":
        where[len(x) // 2] = True
    else:
        where[...] = True
    x[where] = bad[where]
    return x


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", (META_F16, META_Q8))
@pytest.mark.parametrize("bits", BITS)
def test_strips(strip_impl: str, bits: int, m: int, kind: str) -> None:
    """As if they were not there: codes of 0, and scales of the others."""
    for rows in (32, 72, 128):
        side = Side(bits, m, rows, eta=ETA[bits])
        x = spoilt(strip_of(rows, "normal"), kind)
        got = sealed(strip_impl, side, x)
        same(got, strip.seal(x, side))
        if kind == "token":
            same(got, sealed(strip_impl, side, x, None, ALL ^ 1 << 5))
        assert all(np.isfinite(numbers).all() for numbers in meta.read(got[1], side))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bits", (1.0, 2.3, 4.5, 8.0))
def test_ranked_strips(strip_impl: str, bits: float, kind: str) -> None:
    for rows in (40, 64, 256):
        side = ranked_of(rows, bits)
        x = spoilt(strip_of(rows, "spread"), kind)
        got = sealed(strip_impl, side, x)
        same(got, strip.seal(x, side))
        if kind == "token":
            same(got, sealed(strip_impl, side, x, None, ALL ^ 1 << 5))
        assert np.isfinite(strip.unpack(*got, side)).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", (1, 2))
@pytest.mark.parametrize("bits", BITS)
def test_unbiased_strips(strip_impl: str, bits: int, n: int, kind: str) -> None:
    """As if they were 0. A token is a row here."""
    side = unbiased_of(bits)
    for lanes in (LANES, 24):
        x = strips_of(n, lanes, "normal")
        x[..., :lanes] = np.stack([spoilt(s[:, :lanes], kind) for s in x])
        got = sealed_unbiased(strip_impl, side, x, lanes)
        same(got, unbiased.seal(x, side, lanes, np.ones(TILE, bool)))
        zeros = np.where(np.isfinite(x), x, np.float32(0))
        same(got, sealed_unbiased(strip_impl, side, zeros, lanes))


@pytest.mark.parametrize("fit", (0, FIT_LS))
@pytest.mark.parametrize("bits", BITS)
def test_followers(strip_impl: str, bits: int, fit: int) -> None:
    """Their scales are those of a strip without the token."""
    side = Side(bits, META_F16, 64, fit=fit, eta=ETA[bits])
    leader, _ = strip.seal(strip_of(64, "normal", 3), side)
    x = spoilt(strip_of(64, "normal", 4), "token")
    got = sealed(strip_impl, side, x, None, ALL, leader)
    same(got, sealed(strip_impl, side, x, None, ALL ^ 1 << 5, leader))
    want = strip.seal(x, side, None, lanes_of(ALL ^ 1 << 5), leader)[1]
    for a, b in zip(meta.read(got[1], side), meta.read(want, side)):
        assert np.allclose(a, b, rtol=2e-3, atol=2e-3)


LAYERS = [
    Shape(dk=64, dv=64, k_bits=2, v_bits=3),
    Shape(dk=64, dv=64, k_ranked=2.3, data="spread", **ROTATED),
    Shape(dk=80, dv=80, k_ranked=4.5, v_bits=3, **ROTATED),
]


@pytest.mark.parametrize("holes", (False, True))
@pytest.mark.parametrize("shape", LAYERS, ids=("uniform", "ranked", "fine"))
def test_sealed_tiles(impl: str, shape: Shape, holes: bool) -> None:
    """A page in which cells without data and a token are spoilt; then the token is removed."""
    case, store = sealing(Shape(**{**vars(shape), "layout": "pages", "n_kv": 96, "holes": holes}))
    for s in case.table.seals:
        rows = slice(s.page * TILE, (s.page + 1) * TILE)
        bad = np.array([not s.cells >> c & 1 for c in range(TILE)], bool)
        bad[5] = True
        for pages in (store.k_pages, store.v_pages):
            of_page = pages[s.stream, rows]
            of_page[bad] = np.resize(np.array(BAD, np.float16), of_page[bad].shape)
        case.table.page[s.stream, s.tile] = -1
        case.table.since[s.stream, s.tile] = 0
        case.mask[..., s.tile * TILE + 5 : s.tile * TILE + 6] = -np.inf
    check_tiles(impl, case)
    case.recompute()
    for whole_rows in (False, True):
        assert_near(case.run(impl, whole_rows=whole_rows), case.want, ATTENTION)


PAGES = [
    Shape(tokens=1, group=3, layout="pages", n_kv=290),
    Shape(tokens=6, group=2, layout="mixed", n_kv=100, max_bias=8.0, sinks=True),
    Shape(tokens=24, dk=80, dv=72, layout="boundary", softcap=5.0, k_ranked=2.3, **ROTATED),
    Shape(tokens=5, dv=40, streams=2, first_stream=1, layout="pages", v_bits=4, holes=True),
]


@pytest.mark.parametrize("what", ("keys", "values", "both"))
@pytest.mark.parametrize("x", BAD)
@pytest.mark.parametrize("shape", PAGES, ids=lambda s: f"{s.layout}-t{s.tokens}")
def test_cells_of_pages(impl: str, shape: Shape, x: float, what: str) -> None:
    """A spoilt token in every page, which every other query sees: it changes no bit of the others.

    Those that see a NaN among the keys have one, as with any cache of floats.
    """
    case = Case(shape)
    sees = np.zeros(len(case.table.pos), bool)
    bad = [(s, t, t * TILE + 7) for s, t in np.ndindex(case.table.page.shape)]
    bad = [(s, t, c) for s, t, c in bad if c < shape.n_kv and case.table.page[s, t] >= 0]
    for stream, tile, cell in bad:
        case.mask[stream, ::2, cell] = -np.inf
        case.mask[stream, 1::2, cell] = 0
        for row in range(1, shape.tokens, 2):
            token = stream * shape.tokens + row
            sees[token] |= case.table.form(stream, tile, int(case.table.pos[token])) == "page"
    assert bad
    assert sees.any() == (shape.tokens > 1)
    case.recompute()
    clean = {whole_rows: case.run(impl, whole_rows=whole_rows) for whole_rows in (False, True)}
    assert_near(clean[True], case.want, ATTENTION)
    for stream, tile, cell in bad:
        at = shape.first_stream + stream, int(case.table.page[stream, tile]) * TILE + cell % TILE
        for name, pages in (("keys", case.store.k_pages), ("values", case.store.v_pages)):
            if what in (name, "both"):
                pages[at] = x
    for whole_rows, want in clean.items():
        got = case.run(impl, whole_rows=whole_rows)
        assert (got[~sees] == want[~sees]).all()
        if impl != "vulkan":  # GLSL leaves open what a comparison with a NaN gives
            assert what == "values" or not np.isnan(x) or np.isnan(got[sees]).all()


def test_a_query_of_nans(impl: str) -> None:
    """It has one itself; the queries beside it keep their bits."""
    case = Case(Shape(tokens=5, group=2, k_ranked=2.3, **ROTATED))
    want = case.run(impl)
    case.q[2] = np.nan
    got = case.run(impl)
    others = np.arange(5) != 2
    assert (got[others] == want[others]).all()


def test_nothing_but_nans(impl: str) -> None:
    """A query that sees no other token has a NaN, not the zeros of one that sees nothing."""
    case = Case(Shape(tokens=2, n_kv=32, layout="pages"))
    case.table.since[...] = NOT_SEALED
    case.mask[...] = -np.inf
    case.mask[0, 1, 3] = 0
    row = int(case.table.page[0, 0]) * TILE + 3
    case.store.k_pages[0, row] = case.store.v_pages[0, row] = np.nan
    for whole_rows in (False, True):
        got = case.run(impl, whole_rows=whole_rows)
        assert (got[0] == 0).all()
        assert np.isnan(got[1]).all()
