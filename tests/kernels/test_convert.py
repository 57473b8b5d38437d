"""Tiles between codes and page rows outside a graph (cpp/cache/convert.h)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from oracle.side import TILE

from xquant_gguf.selftest.kernels import ApiLayer

from . import lib
from .case import Case, Shape
from .shapes import label
from .test_seal_layer import ALL, sealing

each_shape = pytest.mark.parametrize(
    ("shape", "follow"),
    ALL,
    ids=lambda x: label(x) if isinstance(x, Shape) else "follower" if x else "owner",
)


@each_shape
@pytest.mark.parametrize("holes", (False, True))
def test_sealing_gives_the_bytes_of_a_graph(shape: Shape, follow: bool, holes: bool) -> None:
    """Every tile of the list, one by one: the same planes as the seal node leaves."""
    shape = replace(shape, holes=holes, follow=follow, layout="pages", n_kv=96)
    (graph, _), (case, _) = sealing(shape), sealing(shape)
    lib.call("xq_api_seal_layer", lib.implementations()[0], graph.layer(graph.table.ints()))
    for s in case.table.seals:
        convert(case, "xq_api_seal_tile", s.stream, s.tile, s.page, ctypes.c_uint32(s.cells))
    assert case.table.seals
    assert case.bytes() == graph.bytes()


@each_shape
def test_reading_back_gives_what_attention_reads(shape: Shape, follow: bool) -> None:
    """Sealed tiles become the rows that the oracle unpacks, as f16; no other byte changes."""
    case = Case(replace(shape, follow=follow, layout="sealed", n_kv=96))
    store = case.store
    want = {name: array.data.copy() for name, array in case.arrays.items()}
    for stream in range(shape.first_stream, case.n_streams):
        for tile in range(case.shape.n_tiles):
            page = (tile + 1) % case.n_pages
            rows = slice(page * TILE, (page + 1) * TILE)
            convert(case, "xq_api_read_back", stream, tile, page)
            for head in range(shape.heads):
                for name, x in zip(("k_pages", "v_pages"), store.sealed(stream, tile, head)):
                    want[name][stream, rows, head] = f16(x)
    case.bytes()  # looks at the margins
    for name, array in case.arrays.items():
        assert array.data.tobytes() == want[name].tobytes(), name


def f16(x: np.ndarray) -> np.ndarray:
    return np.clip(x, -65504, 65504).astype(np.float32).astype(np.float16)


def convert(case: Case, function: str, *args: object) -> None:
    call: Callable[..., int] = getattr(lib.library(), function)
    layer: ApiLayer = case.layer(case.table.ints())
    assert call(ctypes.byref(layer), case.n_streams, *args) == 0
