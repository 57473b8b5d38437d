"""Write the golden vectors from the oracle: python tests/golden/make.py

Do this only together with a new XQ_FORMAT_VERSION, or for a form that there was not. What lies
here already is what sessions on disk hold.
"""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from oracle import tile  # noqa: E402
from oracle.rotate import block_of, rotate  # noqa: E402
from oracle.side import (  # noqa: E402
    META_F16,
    META_LOG8,
    META_Q8,
    Side,
    key_side,
    ranked_side,
    unbiased_side,
    value_side,
)

FORMAT_HEADER = HERE.parents[1] / "cpp" / "format" / "xq_format.h"
FILE = HERE / "format.npz"
ETA = {1: 1 / 6, 2: 0.045, 3: 0.0, 4: 0.0}
DK, DV = 80, 48  # a key strip with a half empty last word, a value strip with 16 lanes
DR = 80  # rotated values: two strips under one scale, and one of 16 lanes alone
DW = 264  # keys of two strips of 136 rows, the last of them with 8 behind the last channel
COARSE, FINE = 6, 12  # words of ranked keys: 2.4 and 4.8 bits a channel


def format_version() -> int:
    """XQ_FORMAT_VERSION of the header."""
    found = re.search(r"#define XQ_FORMAT_VERSION (\d+)", FORMAT_HEADER.read_text("utf-8"))
    assert found, f"no XQ_FORMAT_VERSION in {FORMAT_HEADER}"
    return int(found[1])


def sides() -> dict[str, Side]:
    """Every kind of key and value side, by a name that starts with k or v."""
    named = {
        "k_coarse": ranked_side(DK, COARSE, ETA[1], ETA[2]),
        "k_fine": ranked_side(DK, FINE, ETA[1], ETA[2]),
        "k_wide": ranked_side(DW, 9, ETA[1], ETA[2]),
        "k_wide_3bit": key_side(DW, 3, META_Q8, ETA[3]),
    }
    for bits, meta in itertools.product((1, 2, 3, 4), (META_F16, META_Q8)):
        kind = f"{bits}bit_{'q8' if meta == META_Q8 else 'f16'}"
        named[f"k_{kind}"] = key_side(DK, bits, meta, ETA[bits])
        named[f"v_{kind}"] = value_side(DV, bits, meta, ETA[bits])
    for bits in (1, 2, 3, 4):
        named[f"v_{bits}bit_unbiased"] = unbiased_side(DR, bits, block_of(DR))
    return named


def inputs() -> dict[str, NDArray[Any]]:
    """A tile of keys, of values, of values before and after rotation; which cells hold data."""
    rng = np.random.default_rng(11236)
    keys = rng.standard_normal((32, DK)).astype(np.float16)
    keys[:, 5] *= 50
    keys[:, 6] = 0.5
    values = rng.standard_normal((32, DV)).astype(np.float16)
    values[9] = 0
    cells = np.stack([np.ones(32, bool), rng.random(32) < 0.7])
    plain = rng.standard_normal((32, DR)).astype(np.float16)
    plain[:, 3] *= 20
    plain[9] = 0
    rotated = rotate(plain, block_of(DR)).astype(np.float16)
    wide = (rng.standard_normal((32, DW)) * 2 ** rng.uniform(-4, 4, DW)).astype(np.float16)
    named = {"keys": keys, "values": values, "cells": cells, "plain": plain, "rotated": rotated}
    return {**named, "wide": wide}


def input_of(arrays: dict[str, NDArray[Any]], name: str, side: Side) -> NDArray[np.float32]:
    """What a side of this name is made from."""
    if name[0] == "k":
        which = "wide" if name.startswith("k_wide") else "keys"
    else:
        which = "rotated" if side.meta == META_LOG8 else "values"
    return arrays[which].astype(np.float32)


def make() -> dict[str, NDArray[Any]]:
    """Of every side, with all cells and with empty ones: words, metadata and every eighth value."""
    arrays = {"version": np.array(format_version()), **inputs()}
    for name, side in sides().items():
        x = input_of(arrays, name, side)
        keys = name[0] == "k"
        for i, cells in enumerate(arrays["cells"]):
            words, data = (tile.seal_keys if keys else tile.seal_values)(x, side, cells)
            arrays[f"{name}{i}_words"], arrays[f"{name}{i}_meta"] = words, data
            if i == 0:
                dim = x.shape[1:] if keys else ()
                unpacked = (tile.keys if keys else tile.values)(words, data, side, *dim)
                arrays[f"{name}_unpacked"] = unpacked[:, ::8]
    return arrays


if __name__ == "__main__":
    np.savez_compressed(FILE, **make())
    print(f"{FILE.name}: format version {format_version()}, {FILE.stat().st_size} bytes")
