"""Groups of cases over a whole layer: sealing its tiles, and attention."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import numpy.typing as npt

from .attention import F64, attend, rotated
from .checks import Cases, bytes_off, nmse
from .fenced import Fenced
from .kernels import Kernels, address
from .layer import BOTH, EMPTY, SEALED, Layer, Shape
from .sealing import HEAD_DIMS
from .sides import META_F16, Side, plain_values, ranked_keys, unbiased_values, uniform_keys

_GROUPS = (1, 3, 7)
_TOKENS = (1, 5, 40)
_WHOLE_FROM = 16  # queries from which rows are attended to whole, as a prompt's are
_SHARING = ("xquant", "3 bits", "4 bits")
_HIDDEN = 0.05


def packings(dim: int) -> dict[str, tuple[Side, Side]]:
    """Keys and values as the presets pack them, and the widths that none of them has."""
    return {
        "lossless": (ranked_keys(dim, 4.5), unbiased_values(dim, 4)),
        "quality": (ranked_keys(dim, 3), unbiased_values(dim, 2)),
        "balanced": (ranked_keys(dim, 2), unbiased_values(dim, 2)),
        "tiny": (ranked_keys(dim, 1.5), unbiased_values(dim, 1)),
        "unbiased 3 bits": (ranked_keys(dim, 1), unbiased_values(dim, 3)),
        "xquant": (uniform_keys(dim, 2, META_F16), plain_values(dim, 1, META_F16)),
        "3 bits": (uniform_keys(dim, 3), plain_values(dim, 3)),
        "4 bits": (uniform_keys(dim, 4), plain_values(dim, 4)),
        "1 and 2 bits": (uniform_keys(dim, 1), plain_values(dim, 2)),
    }


def seal(kernels: Kernels, name: str, threads: int) -> Cases:
    """Tiles out of their pages, with and without empty cells."""
    for dim in HEAD_DIMS:
        for (packing, sides), holes in itertools.product(packings(dim).items(), (False, True)):
            shape = Shape(*sides, dim, cells=96, holes=holes)
            yield f"{packing}, head dim {dim}", _seal(kernels, name, shape, threads)


def seal_followers(kernels: Kernels, name: str, threads: int) -> Cases:
    """Tiles of a layer that reads its leader's codes."""
    for dim, packing in itertools.product(HEAD_DIMS, _SHARING):
        shape = Shape(*packings(dim)[packing], dim, cells=96, follow=True)
        yield f"{packing}, head dim {dim}", _seal(kernels, name, shape, threads)


def attention(kernels: Kernels, name: str, threads: int) -> Cases:
    """Tiles in every form; every head dim, group and number of queries with some packing."""
    grid = itertools.product(HEAD_DIMS, _GROUPS, _TOKENS)
    for i, (dim, group, tokens) in enumerate(grid):
        packing, sides = list(packings(dim).items())[i % len(packings(dim))]
        shape = Shape(
            *sides,
            dim,
            group=group,
            tokens=tokens,
            cells=288 - i % 3,
            softcap=30.0 if i % 4 == 1 else 0.0,
            sinks=i % 4 == 2,
        )
        yield _label(packing, shape), _attend(kernels, name, shape, threads)


def wide_ranges(kernels: Kernels, name: str, threads: int) -> Cases:
    """Channels of widths from 1/64 to 64, which make logits of hundreds."""
    for dim, packing in itertools.product(HEAD_DIMS, ("lossless", "quality", "balanced", "tiny")):
        shape = Shape(*packings(dim)[packing], dim, group=3, tokens=3, data="spread")
        yield _label(packing, shape), _attend(kernels, name, shape, threads)


def boundary(kernels: Kernels, name: str, threads: int) -> Cases:
    """Queries of one batch on both sides of a tile's window: page for some, codes for others."""
    for dim, tokens in itertools.product(HEAD_DIMS, (2, 5, 40)):
        shape = Shape(*packings(dim)["tiny"], dim, group=3, tokens=tokens, cells=96, forms=(BOTH,))
        yield _label("tiny", shape), _attend(kernels, name, shape, threads)


def followers(kernels: Kernels, name: str, threads: int) -> Cases:
    """A layer's own scales over its leader's codes."""
    for dim, packing, tokens in itertools.product(HEAD_DIMS, _SHARING, (1, 20)):
        shape = Shape(*packings(dim)[packing], dim, group=2, tokens=tokens, follow=True)
        yield _label(packing, shape), _attend(kernels, name, shape, threads)


def _label(packing: str, shape: Shape) -> str:
    return f"{packing}, head dim {shape.dim}, {shape.group} heads, {shape.tokens} queries"


def _seal(kernels: Kernels, name: str, shape: Shape, threads: int) -> int:
    """Bytes that are wrong after every other tile was sealed."""
    layer = _built(kernels, shape)
    done = tuple(range(0, shape.tiles, 2))
    found, want = layer.arrays(sealed=False), layer.arrays(sealed=False)
    full = layer.arrays(sealed=True)
    for key, per_tile in layer.planes(want).items():
        per_tile[list(done)] = layer.planes(full)[key][list(done)]
    table = layer.table(np.zeros(shape.tokens, np.int32), np.zeros(shape.tiles, np.int32), done)
    kernels.seal_layer(name, layer.api(found, table, threads))
    return sum(found[k].broken + bytes_off(found[k].data, want[k].data) for k in found)


def _attend(kernels: Kernels, name: str, shape: Shape, threads: int) -> float:
    layer = _built(kernels, shape)
    queries = _queries(kernels, shape)
    arrays = layer.arrays(sealed=True)
    api = layer.api(arrays, queries.table, threads)
    out = Fenced.full(queries.want.shape, np.float32, np.nan)
    api.q, api.mask, api.out = address(queries.q), address(queries.mask), address(out.data)
    api.sinks = None if queries.sinks is None else address(queries.sinks)
    api.whole_rows = int(shape.tokens >= _WHOLE_FROM)
    kernels.attend(name, api)
    before = layer.arrays(sealed=True)
    changed = sum(arrays[k].broken + bytes_off(arrays[k].data, before[k].data) for k in arrays)
    if changed or out.broken:
        return math.inf
    # head by head, or one wrong head would drown among many
    heads = (a.reshape(-1, shape.dim) for a in (out.data, queries.want))
    return max(nmse(got, want) for got, want in zip(*heads))


class _Queries:
    """What a layer is asked, and the answer in float64."""

    def __init__(self, layer: Layer) -> None:
        s, source = layer.shape, layer.source
        n_head = s.heads * s.group
        self.positions = np.arange(s.cells - s.tokens, s.cells, dtype=np.int32)
        self.since = source.integers(self.positions[0], s.cells + 1, s.tiles).astype(np.int32)
        self.table = layer.table(self.positions, self.since)
        self.q = source.standard_normal((s.tokens, n_head, s.dim)).astype(np.float32)
        self.sinks = source.standard_normal(n_head).astype(np.float32) if s.sinks else None
        hidden = np.arange(s.cells) > self.positions[:, None]
        hidden |= source.random(hidden.shape) < _HIDDEN
        self.mask = np.where(hidden, -np.inf, 0).astype(np.float16)
        self.want = self._answer(layer)

    def _answer(self, layer: Layer) -> F64:
        s = layer.shape
        out = np.zeros((s.tokens, s.heads * s.group, s.dim))
        forms = [layer.form(tile) for tile in range(s.tiles)]
        for kv in range(s.heads):
            codes = _joined([layer.unpacked(t, kv) for t in range(s.tiles)], s.cells)
            pages = _joined([layer.pages(t, kv) for t in range(s.tiles)], s.cells)
            for token, position in enumerate(self.positions):
                packed = [
                    form == SEALED or (form == BOTH and position >= since)
                    for form, since in zip(forms, self.since)
                ]
                by_codes = np.repeat(packed, 32)[: s.cells, None]
                keys, values = (np.where(by_codes, c, p) for c, p in zip(codes, pages))
                empty = np.repeat([form == EMPTY for form in forms], 32)[: s.cells]
                mask = np.where(empty, -np.inf, self.mask[token].astype(np.float64))
                for head in range(kv * s.group, (kv + 1) * s.group):
                    out[token, head] = attend(
                        self.q[token, head].astype(np.float64),
                        keys,
                        values,
                        mask,
                        scale=float(np.float32(s.dim**-0.5)),
                        softcap=s.softcap,
                        sink=-math.inf if self.sinks is None else float(self.sinks[head]),
                    )
        return rotated(out, s.v.rot)


def _joined(
    tiles: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]], cells: int
) -> tuple[F64, F64]:
    """Keys and values ``[cells, dim]`` of all tiles."""
    keys, values = (np.concatenate(x)[:cells].astype(np.float64) for x in zip(*tiles))
    return keys, values


@functools.lru_cache(maxsize=256)
def _built(kernels: Kernels, shape: Shape) -> Layer:
    """A shape's layer, once for all implementations."""
    return Layer(kernels, shape)


@functools.lru_cache(maxsize=256)
def _queries(kernels: Kernels, shape: Shape) -> _Queries:
    return _Queries(_built(kernels, shape))
