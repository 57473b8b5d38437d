"""Write the golden vectors from the oracle: python tests/golden/make.py

Do this only together with a new XQ_FORMAT_VERSION. What lies here already is
what sessions on disk hold.
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

from oracle import strip, tile  # noqa: E402
from oracle.side import META_F16, META_Q8, Side, key_side, value_side  # noqa: E402

FORMAT_HEADER = HERE.parents[1] / "cpp" / "format" / "xq_format.h"
FILE = HERE / "format.npz"
ETA = {1: 1 / 6, 2: 0.045, 3: 0.0, 4: 0.0}
DK, DV = 80, 48  # a key strip with a half empty last word, a value strip with 16 lanes


def format_version() -> int:
    """XQ_FORMAT_VERSION of the header."""
    found = re.search(r"#define XQ_FORMAT_VERSION (\d+)", FORMAT_HEADER.read_text("utf-8"))
    assert found, f"no XQ_FORMAT_VERSION in {FORMAT_HEADER}"
    return int(found[1])


def sides() -> dict[str, tuple[Side, Side]]:
    """Key and value side of every bit-width and kind of metadata."""
    return {
        f"{bits}bit_{'q8' if meta == META_Q8 else 'f16'}": (
            key_side(DK, bits, meta, ETA[bits]),
            value_side(DV, bits, meta, ETA[bits]),
        )
        for bits, meta in itertools.product((1, 2, 3, 4), (META_F16, META_Q8))
    }


def make() -> dict[str, NDArray[Any]]:
    """A tile of keys and values, whole and with empty cells, and its words, metadata and values."""
    rng = np.random.default_rng(11236)
    keys = rng.standard_normal((32, DK)).astype(np.float16)
    keys[:, 5] *= 50
    keys[:, 6] = 0.5
    values = rng.standard_normal((32, DV)).astype(np.float16)
    values[9] = 0
    arrays = {
        "version": np.array(format_version()),
        "keys": keys,
        "values": values,
        "cells": np.stack([np.ones(32, bool), rng.random(32) < 0.7]),
    }
    for name, (k, v) in sides().items():
        for i, cells in enumerate(arrays["cells"]):
            for which, side, words, data in (
                ("k", k, *tile.seal_keys(keys.astype(np.float32), k, cells)),
                ("v", v, *tile.seal_values(values.astype(np.float32), v, cells)),
            ):
                arrays[f"{name}_{which}{i}_words"] = words
                arrays[f"{name}_{which}{i}_meta"] = data
                if i == 0:
                    arrays[f"{name}_{which}_unpacked"] = unpacked(words, data, side)[:, ::8]
    return arrays


def unpacked(words: NDArray[np.uint32], data: NDArray[np.uint8], side: Side) -> NDArray[np.float32]:
    """Values of all strips [strip][rows][32]."""
    pairs = zip(words.reshape(side.strips, -1), data.reshape(side.strips, -1))
    return np.stack([strip.unpack(w, m, side) for w, m in pairs])


if __name__ == "__main__":
    np.savez_compressed(FILE, **make())
    print(f"{FILE.name}: format version {format_version()}, {FILE.stat().st_size} bytes")
