"""The program of docs/how-it-works.md runs as it stands there; the kernels agree with it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from conftest import ROOT
from kernels import lib
from kernels.case import Case, Shape
from numpy.typing import NDArray
from oracle import codes as bitstream
from oracle import meta
from oracle.side import META_F16, Side

pytestmark = pytest.mark.usefixtures("packed_library")

DIM, TOKENS = 64, 300


@pytest.fixture(scope="module")
def program() -> dict[str, Any]:
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    found = re.search(r"<!-- program -->\n```python\n(.*?)```", text, re.S)
    assert found
    assert found[1].count("\n") <= 65
    names: dict[str, Any] = {}
    exec(compile(found[1], "how-it-works.md", "exec"), names)
    return names


def filled(program: dict[str, Any], rng: np.random.Generator) -> Any:
    cache = program["Cache"](DIM)
    size = 2 ** rng.uniform(-3, 3, DIM)  # channels of keys differ
    for _ in range(TOKENS):
        cache.store(rng.standard_normal(DIM) * size, rng.standard_normal(DIM))
    return cache


def test_codes_are_those_of_the_kernels(program: dict[str, Any]) -> None:
    cache = filled(program, np.random.default_rng(1))
    side = Side(2, META_F16, DIM, eta=float(program["ETA"]))
    for tile in cache.tiles[:4]:
        codes, scale, zero = tile["keys"]
        keys = np.ascontiguousarray(tile["page"][0].astype(np.float32).T)
        words, data = np.zeros(side.strip_words, np.uint32), np.zeros(side.strip_meta, np.uint8)
        lib.seal("generic", side, keys, None, 0xFFFFFFFF, words, data)
        assert (bitstream.unpack(words, side) == codes).all()
        got = meta.read(data, side)
        assert (got[0] == scale[:, 0]).all() and (got[1] == zero[:, 0]).all()


def test_attention_is_that_of_the_kernels(program: dict[str, Any]) -> None:
    """One head, 300 tokens: sealed tiles, pages, and the last one half full."""
    cache = filled(program, np.random.default_rng(2))
    shape = Shape(
        dk=DIM,
        dv=DIM,
        heads=1,
        tokens=1,
        n_kv=320,
        k_meta=META_F16,
        v_meta=META_F16,
        layout="boundary",
    )
    case = Case(shape)
    mask = np.full_like(case.mask, -np.inf)
    mask[..., :TOKENS] = 0
    case.mask = mask
    case.table.pos[:] = TOKENS - 1
    for number, tile in enumerate(cache.tiles):
        rows = slice(case.page_of[0, number] * 32, (case.page_of[0, number] + 1) * 32)
        keys, values = tile["page"]
        case.store.k_pages[0, rows, 0], case.store.v_pages[0, rows, 0] = keys, values
        case._seal(0, number, 0, keys, values, np.ones(32, bool))
        case.table.since[0, number] = 2**31 - 1 if tile["from"] is None else tile["from"]
    assert sum(tile["from"] is not None for tile in cache.tiles) == 5
    want = cache.attend(case.q[0, 0], TOKENS - 1)
    for impl in lib.implementations():
        np.testing.assert_allclose(case.run(impl)[0, 0], want, rtol=0, atol=2e-3)
    plain = reference(cache, case.q[0, 0])
    assert np.abs(plain - want).max() > 0.02  # packing is not without effect


def reference(cache: Any, query: NDArray[np.float32]) -> NDArray[np.float32]:
    pages = np.concatenate([tile["page"] for tile in cache.tiles], axis=1)[:, :TOKENS]
    keys, values = pages.astype(np.float32)
    scores = keys @ query / np.sqrt(DIM)
    weights = np.exp(scores - scores.max())
    result: NDArray[np.float32] = weights @ values / weights.sum()
    return result
