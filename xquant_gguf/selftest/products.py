"""Groups of cases that read codes: dequantise and multiply; and the rotation of values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np

from .checks import Cases, nmse
from .fenced import Fenced
from .kernels import REFERENCE, Bytes, Kernels, Words
from .sealing import DIMS, METAS, RANKED_BITS
from .sides import LANES, META_F16, Side, ranked_keys, unbiased_values, uniform_keys
from .strips import channels, sealed, sealed_unbiased, unpacked


def unpack(kernels: Kernels, name: str, threads: int) -> Cases:
    """Dequantised values of every kind of strip."""
    for case, side, codes, meta in _strips(kernels):
        out = Fenced.full((side.rows, LANES), np.float32, np.nan)
        kernels.unpack(name, side, codes, meta, out.data)
        error = nmse(out.data, unpacked(kernels, side, codes, meta))
        yield case, math.inf if out.broken else error


def multiply(kernels: Kernels, name: str, threads: int) -> Cases:
    """Codes against multipliers, on top of what is there."""
    for bits, dim, n in itertools.product((1, 2, 3, 4, 8), DIMS, (1, 2, 3, 7)):
        source = np.random.default_rng([bits, dim, n])
        side = Side(bits, META_F16, dim)
        words = source.integers(0, 2**32, kernels.strip_words(side), np.uint32)
        ones = np.concatenate([np.ones(dim, np.float16), np.zeros(dim, np.float16)])
        codes = unpacked(kernels, side, words, ones.view(np.uint8)).astype(np.float64)
        m = np.zeros((n, -(-dim // 32) * 32), np.float32)
        m[:, :dim] = source.standard_normal((n, dim))
        acc = Fenced.full((n, LANES), np.float32, 1.5)
        kernels.mac(name, bits, dim, words, m, acc.data)
        error = nmse(acc.data, m[:, :dim].astype(np.float64) @ codes + 1.5)
        yield f"{bits} bits, {dim} rows, {n} queries", math.inf if acc.broken else error


def rotate(kernels: Kernels, name: str, threads: int) -> Cases:
    """Walsh-Hadamard transform of blocks."""
    for block, blocks in itertools.product((8, 16, 32, 64), (1, 2, 3, 5)):
        source = np.random.default_rng([block, blocks])
        got = Fenced(source.standard_normal(block * blocks).astype(np.float32))
        want = got.data.copy()
        kernels.rotate(name, got.data, block)
        kernels.rotate(REFERENCE, want, block)
        yield f"{blocks} blocks of {block}", math.inf if got.broken else nmse(got.data, want)


def _strips(kernels: Kernels) -> Iterator[tuple[str, Side, Words, Bytes]]:
    """A sealed strip of every kind."""
    for dim in DIMS:
        source = np.random.default_rng(dim)
        for bits, (kind, number) in itertools.product(range(1, 5), METAS.items()):
            side = uniform_keys(dim, bits, number)
            made = sealed(kernels, REFERENCE, side, channels(source, dim, "normal"))
            yield f"{bits} bits, {kind}, {dim} rows", side, *made
        for average in RANKED_BITS:
            side = ranked_keys(dim, average)
            made = sealed(kernels, REFERENCE, side, channels(source, dim, "spread"))
            yield f"ranked, {average:g} bits, {dim} rows", side, *made
    for bits in range(1, 5):
        side = unbiased_values(64, bits)
        x = np.random.default_rng(bits).standard_normal((1, LANES, LANES)).astype(np.float32)
        codes, meta = sealed_unbiased(kernels, REFERENCE, side, x, LANES, None)
        yield f"unbiased, {bits} bits", side, codes.data, meta.data
