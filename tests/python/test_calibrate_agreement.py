"""Agreement of codes: keys and values out of a sequence state, codes, and what chance gives."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest

from xquant_gguf.calibrate.agreement import compare, key_codes, pair_agreement, value_codes
from xquant_gguf.calibrate.kv_rows import LayerRows, parse
from xquant_gguf.calibrate.shapes import Shape
from xquant_gguf.errors import UnsupportedModelError

CELLS, WIDTH, LAYERS = 40, 8, 2


def state(*, mrope: bool = False, kind: int = 1, transposed: int = 0, streams: int = 1) -> bytes:
    """A sequence state as llama.cpp writes it, with row values that name layer, side and cell."""
    out = struct.pack("<IiII", 0x1234, 0, streams, CELLS)
    for pos in range(CELLS):
        out += struct.pack("<iI", pos, 1) + (bytes(8) if mrope else b"") + struct.pack("<i", 0)
    out += struct.pack("<II", transposed, LAYERS)
    for side in range(2):
        for layer in range(LAYERS):
            rows = np.arange(CELLS)[:, None] + np.full(WIDTH, 100 * layer + 1000 * side)
            out += struct.pack("<iQ", kind, 2 * WIDTH) + rows.astype("<f2").tobytes()
    return out


@pytest.mark.parametrize("mrope", [False, True])
def test_rows_of_a_state(mrope: bool) -> None:
    found = parse(state(mrope=mrope) + b"a window cache behind it", CELLS)
    assert len(found) == LAYERS
    assert found[1].k.shape == (CELLS, WIDTH)
    assert found[1].k[3, 5] == 103
    assert found[0].v[39, 0] == 1039


@pytest.mark.parametrize(
    "data",
    [b"", state()[:-1], state(kind=8), state(transposed=1), state(streams=2), state()[:20]],
)
def test_other_states_are_refused(data: bytes) -> None:
    with pytest.raises(UnsupportedModelError, match="plain f16 keys"):
        parse(data, CELLS)


def test_codes_are_between_minimum_and_maximum() -> None:
    keys = np.zeros((70, 2), np.float32)
    keys[:, 0] = np.arange(70)
    codes = key_codes(keys)
    assert codes.shape == (2, 32, 2)  # two whole tiles
    assert codes[0, :, 0].tolist() == [0] * 6 + [1] * 10 + [2] * 10 + [3] * 6
    assert not codes[:, :, 1].any()
    values = np.tile(np.arange(48, dtype=np.float32), (32, 2))
    assert value_codes(values, 48).size == 32 * 96
    assert value_codes(values, 48).max() == 3


def test_chance_and_what_is_above_it() -> None:
    pick = np.random.default_rng(0)
    a: Any = pick.integers(0, 4, 40000).astype(np.int8)
    b: Any = pick.integers(0, 4, 40000).astype(np.int8)
    apart, same = compare(a, b), compare(a, a)
    assert apart["chance"] == pytest.approx(0.25, abs=0.01)
    assert apart["above_chance"] == pytest.approx(0, abs=0.02)
    assert same["agreement"] == same["above_chance"] == 1
    assert compare(a * 0, a * 0)["above_chance"] == 0


def test_pairs_of_one_shape() -> None:
    pick = np.random.default_rng(1)
    rows = [LayerRows(*pick.normal(size=(2, 64, 64)).astype(np.float32)) for _ in range(5)]
    rows[1] = rows[0]
    shapes = [Shape(i, 1, 64, 64) for i in range(5)]
    found = pair_agreement(shapes, rows)
    assert [pair["layers"] for pair in found] == [[0, 1], [2, 3]]
    assert found[0]["k"]["above_chance"] == found[0]["v"]["above_chance"] == 1
    assert abs(found[1]["k"]["above_chance"]) < 0.05
    shapes[3] = Shape(3, 1, 32, 64)
    assert len(pair_agreement(shapes, rows)) == 1
