"""Storing new rows, for which the CPU kernels have no entry point."""

from __future__ import annotations

import numpy as np
import pytest
from kernels import lib
from kernels.case import Case, Shape
from kernels.lib import address
from oracle.rotate import rotate
from oracle.side import TILE

ROTATED = {"v_unbiased": True, "v_rotate": True}
SHAPES = [
    Shape(dk=64, dv=64, heads=3, tokens=5, k_ranked=2.3, **ROTATED),
    Shape(dk=80, dv=96, tokens=3, k_bits=3, v_bits=3, v_rotate=True),
    Shape(dk=128, dv=72, tokens=2, k_ranked=4.5, v_bits=3, **ROTATED),
    Shape(dk=256, dv=256, heads=1, tokens=1, k_bits=1, v_bits=4),
    Shape(dk=40, dv=40, tokens=9, streams=1, first_stream=1, k_bits=4, v_bits=1),
]
SPACING = 2.0**-10
"""Of f16 numbers, relative."""


@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: f"{s.dk}x{s.dv}")
def test_store(impl: str, shape: Shape) -> None:
    case = Case(shape)
    rng = np.random.default_rng(3)
    n, heads = shape.tokens, shape.heads
    k = rng.standard_normal((n, heads, shape.dk)).astype(np.float32)
    v = rng.standard_normal((n, heads, shape.dv)).astype(np.float32)
    k[0, 0, :2] = 1e6, -1e-8
    rows = rng.permutation(case.n_pages * TILE)[:n].astype(np.int64)
    before = {name: array.data.copy() for name, array in case.arrays.items()}
    call(impl, "xq_emulated_store", case, k, v, rows)
    want_k, want_v = before["k_pages"], before["v_pages"]
    with np.errstate(over="ignore"):
        want_k[0, rows] = k
    turned = rotate(v, shape.v.rot) if shape.v.rot else v
    got_v = case.arrays["v_pages"].data[0, rows].astype(np.float32)
    assert np.allclose(got_v, turned, rtol=SPACING, atol=1e-6)
    want_v[0, rows] = case.arrays["v_pages"].data[0, rows]
    for name, want in before.items():
        assert case.arrays[name].data.tobytes() == want.tobytes(), name


def call(impl: str, function: str, case: Case, *args: object) -> None:
    table = case.table.ints()
    layer = case.layer(table)
    converted = [lib._convert(arg) for arg in args]
    assert getattr(lib.others[impl], function)(lib._convert(layer), *converted) == 0
    case.bytes()  # looks at the margins
    assert address(table) == layer.table
