"""Groups of cases that quantise one strip: codes and metadata byte for byte."""

from __future__ import annotations

import itertools
import math

import numpy as np

from .checks import Cases, nmse
from .data import KINDS, numbers
from .kernels import REFERENCE, Kernels
from .sides import FIT_LS, LANES, META_F16, META_Q8, ranked_keys, unbiased_values, uniform_keys
from .strips import ALL, channels, differ, sealed, unbiased_differ, unpacked

DIMS = (64, 80, 96, 128, 256)
HEAD_DIMS = (*DIMS, 512)  # of layers: keys beyond 256 are two strips
RANKED_BITS = (1.0, 1.5, 2.0, 2.5, 3.0, 4.5, 6.0, 8.0)
METAS = {"f16": META_F16, "q8": META_Q8}
_MASKS = (ALL, 0x0000FFFF, 0x5A5A1234)


def seal_uniform(kernels: Kernels, name: str, threads: int) -> Cases:
    """Keys of 1 to 4 bits: all lanes and some, all rows and some."""
    for bits, (meta, number), dim in itertools.product(range(1, 5), METAS.items(), DIMS):
        side, source = uniform_keys(dim, bits, number), np.random.default_rng([bits, dim])
        for kind, mask in zip(KINDS, itertools.cycle(_MASKS)):
            x = channels(source, dim, kind)
            rows = None if mask == ALL else (source.random(dim) < 0.7).astype(np.uint8)
            yield (
                f"{bits} bits, {meta}, {dim} rows, {kind}",
                differ(kernels, name, side, x, rows, mask),
            )


def seal_followers(kernels: Kernels, name: str, threads: int) -> Cases:
    """A follower's scales, from its own minimum and maximum, over a leader's codes."""
    for bits, (meta, number), dim in itertools.product(range(1, 5), METAS.items(), DIMS):
        side, source = uniform_keys(dim, bits, number), np.random.default_rng([bits, dim, 1])
        leader = sealed(kernels, REFERENCE, side, channels(source, dim, "normal"))[0]
        x = channels(source, dim, "normal")
        off = differ(kernels, name, side, x, None, ALL, leader)
        yield f"{bits} bits, {meta}, {dim} rows", off


def fit_followers(kernels: Kernels, name: str, threads: int) -> Cases:
    """A follower's scales by least squares: sums may be taken in any order, so values count."""
    for bits, (meta, number), dim in itertools.product(range(1, 5), METAS.items(), DIMS):
        side = uniform_keys(dim, bits, number, fit=FIT_LS)
        source = np.random.default_rng([bits, dim, 2])
        theirs = channels(source, dim, "normal")
        leader = sealed(kernels, REFERENCE, side, theirs)[0]
        x = 0.5 - 2 * theirs + np.float32(0.2) * channels(source, dim, "normal")
        got, want = (sealed(kernels, n, side, x, leader=leader) for n in (name, REFERENCE))
        error = nmse(unpacked(kernels, side, *got), unpacked(kernels, side, *want))
        changed = (got[0] != leader).any()
        yield f"{bits} bits, {meta}, {dim} rows", math.inf if changed else error


def seal_ranked(kernels: Kernels, name: str, threads: int) -> Cases:
    """Keys of several widths: classes, codes and metadata."""
    for bits, dim in itertools.product(RANKED_BITS, DIMS):
        side, source = ranked_keys(dim, bits), np.random.default_rng([int(10 * bits), dim])
        for kind, mask in zip(KINDS, itertools.cycle(_MASKS)):
            x = channels(source, dim, kind)
            yield f"{bits:g} bits, {dim} rows, {kind}", differ(kernels, name, side, x, None, mask)


def seal_unbiased(kernels: Kernels, name: str, threads: int) -> Cases:
    """Symmetric values: one strip and two, short last strips, empty cells."""
    for bits, n, lanes in itertools.product(range(1, 5), (1, 2), (LANES, 16)):
        side, source = unbiased_values(64, bits), np.random.default_rng([bits, n, lanes])
        for kind, holes in itertools.product(KINDS, (False, True)):
            x = np.stack([numbers(source, (LANES, LANES), kind) for _ in range(n)])
            x[-1, :, lanes:] = 0
            rows = (source.random(LANES) < 0.7).astype(np.uint8) if holes else None
            case = f"{bits} bits, {n} strips, {lanes} lanes, {kind}"
            yield case, unbiased_differ(kernels, name, side, x.astype(np.float32), lanes, rows)
