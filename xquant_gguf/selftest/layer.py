"""A layer's cache with tiles in every form, sealed by the reference, as the kernels take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._checks import TILE
from .data import numbers
from .fenced import Fenced
from .kernels import REFERENCE, ApiLayer, ApiSide, Bytes, Floats, Kernels, Words, address
from .sides import LANES, META_LOG8, Side

SEALED, BOTH, PAGE, EMPTY = "sealed", "both", "page", "empty"
NOT_SEALED = 0x7FFFFFFF  # cpp/format/xq_table.h
_TABLE_HEAD = 8


@dataclass(frozen=True)
class Shape:
    """What a layer looks like.

    Attributes:
        k, v: how it is packed. dim: head dim of keys and values.
        heads: KV heads. group: query heads of each.
        tokens: queries, the newest cells. cells: cells they may look at.
        forms: forms of the tiles, in turn: ``SEALED`` has codes, ``PAGE`` a page, ``BOTH``
            codes for queries behind its window and a page for those within, ``EMPTY``
            nothing.
        data: kind of numbers. follow: codes are another layer's.
        holes: some cells of every tile hold nothing.
    """

    k: Side
    v: Side
    dim: int
    heads: int = 2
    group: int = 1
    tokens: int = 1
    cells: int = 288
    forms: tuple[str, ...] = (PAGE, SEALED, SEALED, EMPTY, SEALED, BOTH, BOTH, PAGE, PAGE)
    data: str = "normal"
    follow: bool = False
    holes: bool = False
    softcap: float = 0.0
    sinks: bool = False

    @property
    def tiles(self) -> int:
        """Tiles of the cells."""
        return -(-self.cells // TILE)


class Layer:
    """Pages of random numbers, and what the reference makes of every tile.

    Args:
        kernels: the library's.
        shape: see :class:`Shape`.
    """

    def __init__(self, kernels: Kernels, shape: Shape) -> None:
        self.kernels, self.shape = kernels, shape
        s = shape
        self.source = source = np.random.default_rng([s.dim, s.heads, s.group, s.tokens, s.k.bits])
        self.page_of = source.permutation(s.tiles + 2)[: s.tiles].astype(np.int32)
        rows = (s.tiles + 2) * TILE
        self.k_pages = numbers(source, (rows, s.heads, s.dim), s.data)
        self.v_pages = numbers(source, (rows, s.heads, s.dim), s.data)
        self.filled = np.ones((s.tiles, TILE), bool)
        if s.holes:
            self.filled = source.random((s.tiles, TILE)) < 0.7
            self.filled[:, 5] = True  # a tile without data is never sealed
        self.sizes = [
            (side.strips * kernels.strip_words(side), -(-side.strips // side.shared))
            for side in (s.k, s.v)
        ]
        self._seal_all()

    def form(self, tile: int) -> str:
        """Form of a tile."""
        return self.shape.forms[tile % len(self.shape.forms)]

    def pages(self, tile: int, head: int) -> tuple[Floats, Floats]:
        """Keys and values ``[32, dim]`` of a tile's page."""
        rows = slice(self.page_of[tile] * TILE, (self.page_of[tile] + 1) * TILE)
        k, v = (pages[rows, head].astype(np.float32) for pages in (self.k_pages, self.v_pages))
        return k, v

    def unpacked(self, tile: int, head: int) -> tuple[Floats, Floats]:
        """Keys and values ``[32, dim]`` of a tile's codes."""
        s, at = self.shape, (tile, head)
        key_words = self.k_codes[at].reshape(s.k.strips, -1)
        key_metas = self.k_meta[at].reshape(s.k.strips, -1)
        keys = np.concatenate([self._strip(s.k, *pair) for pair in zip(key_words, key_metas)])
        words = self.v_codes[at].reshape(s.v.strips, -1)
        metas = self.v_meta[at].reshape(-1, self.kernels.meta_bytes(s.v))
        parts = [
            self._strip(s.v, words[i], metas[i // s.v.shared])[:, : s.v.lanes(i)]
            for i in range(s.v.strips)
        ]
        return keys[: s.dim].T, np.concatenate(parts, axis=1)

    def arrays(self, *, sealed: bool) -> dict[str, Fenced]:
        """A copy of the cache for a kernel to work on.

        Args:
            sealed: with the reference's codes and metadata; else with a leader's codes, if
                it follows one, and bytes that a kernel has to overwrite.
        """
        blank = [np.full_like(a, 0xFFFFFFFF) for a in (self.k_codes, self.v_codes)]
        if self.shape.follow:
            blank = [self.k_codes, self.v_codes]
        meta = np.concatenate([self.k_meta.ravel(), self.v_meta.ravel()])
        return {
            "k_codes": Fenced(self.k_codes if sealed else blank[0]),
            "v_codes": Fenced(self.v_codes if sealed else blank[1]),
            "meta": Fenced(meta if sealed else np.full_like(meta, 0xFF)),
            "k_pages": Fenced(self.k_pages),
            "v_pages": Fenced(self.v_pages),
        }

    def planes(self, arrays: dict[str, Fenced]) -> dict[str, npt.NDArray[Any]]:
        """Codes and metadata of such a copy by tile, as views."""
        meta, at = arrays["meta"].data, self.k_meta.size
        return {
            "k_codes": arrays["k_codes"].data,
            "v_codes": arrays["v_codes"].data,
            "k_meta": meta[:at].reshape(self.k_meta.shape),
            "v_meta": meta[at:].reshape(self.v_meta.shape),
        }

    def api(
        self, arrays: dict[str, Fenced], table: npt.NDArray[np.int32], threads: int
    ) -> ApiLayer:
        """The cache as the kernels take it, without queries."""
        s = self.shape
        layer = ApiLayer(
            dk=s.dim,
            dv=s.dim,
            n_head=s.heads * s.group,
            n_head_kv=s.heads,
            n_tokens=s.tokens,
            n_stream=1,
            n_kv=s.cells,
            n_tiles=s.tiles,
            n_rows=len(self.k_pages),
            n_threads=threads,
            scale=s.dim**-0.5,
            softcap=s.softcap,
            k=ApiSide.of(s.k),
            v=ApiSide.of(s.v),
            k_leads=int(not s.follow),
            v_leads=int(not s.follow),
        )
        for name, fence in arrays.items():
            setattr(layer, name, address(fence.data))
        layer.table = address(table)
        return layer

    def table(
        self,
        positions: npt.NDArray[np.int32],
        since: npt.NDArray[np.int32],
        seal: tuple[int, ...] = (),
    ) -> npt.NDArray[np.int32]:
        """The tile table (cpp/format/xq_table.h).

        Args:
            positions: of every query. since: by tile, the first position that reads a
                ``BOTH`` tile's codes.
            seal: tiles to seal.
        """
        tiles = []
        for tile, page in enumerate(self.page_of):
            form = self.form(tile)
            paged, sealed = form in (PAGE, BOTH), form in (SEALED, BOTH)
            tiles += [int(page) if paged else -1, int(since[tile]) if sealed else NOT_SEALED]
        orders = [v for t in seal for v in (0, t, int(self.page_of[t]), self._cell_bits(t))]
        at = _TABLE_HEAD + len(positions) + len(tiles)
        head = [0, self.shape.tiles, at, len(seal), 0, 0, 0, 0]
        return np.array([*head, *positions, *tiles, *orders], np.int64).astype(np.int32)

    def _cell_bits(self, tile: int) -> int:
        return int(sum(1 << int(c) for c in np.flatnonzero(self.filled[tile])))

    def _seal_all(self) -> None:
        """Every tile's codes and metadata, over a leader's codes if the shape follows one."""
        s, per_tile = self.shape, (self.shape.tiles, self.shape.heads)
        (k_words, k_metas), (v_words, v_metas) = self.sizes
        self.k_codes = np.zeros((*per_tile, k_words), np.uint32)
        self.v_codes = np.zeros((*per_tile, v_words), np.uint32)
        self.k_meta = np.zeros((*per_tile, k_metas * self.kernels.meta_bytes(s.k)), np.uint8)
        self.v_meta = np.zeros((*per_tile, v_metas * self.kernels.meta_bytes(s.v)), np.uint8)
        for tile, head in np.ndindex(*per_tile):
            keys, values = self.pages(tile, head)
            if s.follow:  # a leader's codes are those of similar data
                noise = self.source.standard_normal((2, TILE, s.dim)).astype(np.float32)
                self._seal_keys(tile, head, keys + np.float32(0.3) * noise[0], leader=False)
                self._seal_values(tile, head, values + np.float32(0.3) * noise[1], leader=False)
            self._seal_keys(tile, head, keys, leader=s.follow)
            self._seal_values(tile, head, values, leader=s.follow)

    def _seal_keys(self, tile: int, head: int, keys: Floats, *, leader: bool) -> None:
        side, bits = self.shape.k, self._cell_bits(tile)
        x = np.zeros((side.strips * side.rows, LANES), np.float32)
        x[: self.shape.dim] = keys.T
        words = self.k_codes[tile, head].reshape(side.strips, -1)
        metas = self.k_meta[tile, head].reshape(side.strips, -1)
        for part, codes, meta in zip(x.reshape(side.strips, -1, LANES), words, metas):
            self.kernels.seal(REFERENCE, side, part, None, bits, codes, meta, leader=leader)

    def _seal_values(self, tile: int, head: int, values: Floats, *, leader: bool) -> None:
        side, k = self.shape.v, self.kernels
        padded = np.pad(values, ((0, 0), (0, -values.shape[1] % LANES)))
        x = np.ascontiguousarray(padded.reshape(TILE, -1, LANES).swapaxes(0, 1))
        rows = self.filled[tile].astype(np.uint8)
        words = self.v_codes[tile, head].reshape(side.strips, -1)
        metas = self.v_meta[tile, head].reshape(-1, k.meta_bytes(side))
        for i in range(0, side.strips, side.shared):
            end = min(i + side.shared, side.strips)
            meta, lanes = metas[i // side.shared], side.lanes(end - 1)
            if side.meta == META_LOG8:
                k.seal_unbiased(REFERENCE, side, x[i:end], lanes, rows, words[i:end], meta)
            else:
                used = (1 << lanes) - 1
                k.seal(REFERENCE, side, x[i], rows, used, words[i], meta, leader=leader)

    def _strip(self, side: Side, codes: Words, meta: Bytes) -> Floats:
        out = np.full((side.rows, LANES), np.nan, np.float32)
        self.kernels.unpack(REFERENCE, side, codes, meta, out)
        return out
