"""What GPU kernels can get wrong and the shared cases seldom or never show."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import lib
from kernels.budgets import ATTENTION, assert_near
from kernels.case import ETA, Case, Shape
from kernels.test_seal import assert_same, sealed
from kernels.test_seal_layer import sealing
from oracle import strip
from oracle.side import LANES, META_F16, META_Q8, TILE, Side, ranked_side
from oracle.table import Seal

ROTATED = {"v_unbiased": True, "v_rotate": True}
LISTS = [
    Shape(dk=64, dv=64, heads=1, k_bits=2, v_bits=3),
    Shape(dk=64, dv=64, heads=1, k_ranked=2.3, data="spread", **ROTATED),
]


@pytest.mark.parametrize("shape", LISTS, ids=("uniform", "ranked"))
def test_long_lists(impl: str, shape: Shape) -> None:
    """Blocks that seal one strip after the other make what blocks with one strip each make."""
    case, _ = sealing(Shape(**{**vars(shape), "layout": "pages", "n_kv": 1600}))
    seals: list[Seal] = case.table.seals
    assert len(seals) > 16
    lib.call("xq_api_seal_layer", impl, case.layer(case.table.ints()))
    together = case.bytes()
    for name in ("k_codes", "v_codes", "meta"):
        case.arrays[name].data[...] = 0xFF
    case.arrays["k_codes"].data[...] = case.arrays["v_codes"].data[...] = 0xFFFFFFFF
    for i in range(0, len(seals), 8):
        case.table.seals = seals[i : i + 8]
        lib.call("xq_api_seal_layer", impl, case.layer(case.table.ints()))
    assert case.bytes() == together


@pytest.mark.parametrize("bits", (1, 2, 3, 4))
def test_negative_scales(impl: str, bits: int) -> None:
    """A follower that runs against its leader; multipliers are negative then."""
    form = {"k_meta": META_F16, "v_meta": META_F16, "follow": True, "layout": "sealed"}
    case = Case(Shape(k_bits=bits, v_bits=bits, tokens=2, n_kv=128, **form))
    for side, data in ((case.shape.k, case.store.k_meta), (case.shape.v, case.store.v_meta)):
        for g in range(side.strips):
            scales = data[..., g * side.strip_meta :][..., 1 : 2 * side.rows : 2]
            scales ^= 0x80
    case.recompute()
    assert_near(case.run(impl), case.want, ATTENTION)


def test_hidden_cells_may_hold_anything(impl: str) -> None:
    """Cells of a page that were never written, or freed: not even a NaN counts."""
    case = Case(Shape(tokens=3, group=2, n_kv=100, layout="pages", holes=True))
    hidden = np.isneginf(case.mask).all(axis=1)[0]
    hidden = np.pad(hidden, (0, -case.shape.n_kv % TILE), constant_values=True)
    for cell in np.flatnonzero(hidden):
        row = int(case.table.page[0, cell // TILE]) * TILE + cell % TILE
        case.store.k_pages[0, row] = case.store.v_pages[0, row] = np.nan
    assert_near(case.run(impl), case.want, ATTENTION)


@pytest.mark.parametrize("x", (0.0, -0.0))
def test_zeros_of_either_sign(impl: str, x: float) -> None:
    for side in (Side(2, META_Q8, 64, eta=ETA[2]), ranked_side(64, 5, ETA[1], ETA[2])):
        rows = np.full((64, LANES), x, np.float32)
        assert_same(sealed(impl, side, rows), strip.seal(np.zeros_like(rows), side))


@pytest.mark.parametrize("seed", (0, 1))
@pytest.mark.parametrize("k_ranked", (0.0, 4.5))
def test_channels_too_large_for_integers(impl: str, k_ranked: float, seed: int) -> None:
    """An outlier makes logits of thousands: 16 bits of it are off by 1e-6, f32 by 1e-9."""
    form = {"layout": "sealed", "data": "outlier", "k_ranked": k_ranked, "seed": seed}
    case = Case(Shape(tokens=24, **form))
    assert_near(case.run(impl), case.want, ATTENTION)
