"""Attention of a whole layer over its mixture of sealed tiles and pages."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import tile
from .attention import alibi_slope, attend
from .rotate import rotate
from .side import TILE, Side
from .table import Table

F16 = NDArray[np.float16]
F64 = NDArray[np.float64]


@dataclass
class Store:
    """A layer's data. Codes and metadata are [stream][tile][head], pages [stream][row][head]."""

    k: Side
    v: Side
    k_codes: NDArray[np.uint32]
    v_codes: NDArray[np.uint32]
    k_meta: NDArray[np.uint8]
    v_meta: NDArray[np.uint8]
    k_pages: F16
    v_pages: F16

    def sealed(self, stream: int, at: int, head: int) -> tuple[F64, F64]:
        """Keys and values of a sealed tile."""
        dk = self.k_pages.shape[3]
        k = tile.keys(self.k_codes[stream, at, head], self.k_meta[stream, at, head], self.k, dk)
        v = tile.values(self.v_codes[stream, at, head], self.v_meta[stream, at, head], self.v)
        return k.astype(np.float64), v.astype(np.float64)

    def paged(self, stream: int, page: int, head: int) -> tuple[F64, F64]:
        """Keys and values of a page."""
        rows = slice(page * TILE, (page + 1) * TILE)
        k, v = self.k_pages[stream, rows, head], self.v_pages[stream, rows, head]
        return k.astype(np.float64), v.astype(np.float64)


@dataclass(frozen=True)
class Logits:
    """How scores become logits."""

    scale: float
    softcap: float = 0.0
    max_bias: float = 0.0
    sinks: NDArray[np.float32] | None = None


def attend_layer(
    store: Store, table: Table, q: NDArray[np.float32], mask: F16, logits: Logits
) -> F64:
    """Output [token][head][dv] of queries [token][head][dk] under a mask [stream][token][n_kv].

    Values may be stored rotated, in tiles and pages alike; the output never is.
    """
    n_tokens, n_head = q.shape[:2]
    n_stream, per_stream, n_kv = mask.shape
    group = n_head // store.k_pages.shape[2]
    hidden = np.full((n_stream, per_stream, -n_kv % TILE), -np.inf)
    cells = np.concatenate([mask.astype(np.float64), hidden], axis=2)
    cells = cells.reshape(n_stream, per_stream, -1, TILE)
    n_tiles = min(cells.shape[2], table.page.shape[1])
    read = _remember(store)
    out = np.zeros((n_tokens, n_head, store.v_pages.shape[3]))
    for token, head in np.ndindex(n_tokens, n_head):
        stream, row = divmod(token, per_stream)
        tiles, visible = [], []
        for t in range(n_tiles):
            form = table.form(stream, t, int(table.pos[token]))
            if form == "none":
                continue
            place = t if form == "codes" else int(table.page[stream, t])
            tiles.append(read(form, table.first_stream + stream, place, head // group))
            visible.append(cells[stream, row, t])
        if tiles:
            out[token, head] = attend(
                q[token, head].astype(np.float64),
                np.concatenate([k for k, _ in tiles]),
                np.concatenate([v for _, v in tiles]),
                np.concatenate(visible),
                logits.scale,
                logits.softcap,
                alibi_slope(logits.max_bias, n_head, head),
                -math.inf if logits.sinks is None else float(logits.sinks[head]),
            )
    return rotate(out, store.v.rot)


def _remember(store: Store) -> Callable[[str, int, int, int], tuple[F64, F64]]:
    known: dict[tuple[str, int, int, int], tuple[F64, F64]] = {}

    def read(form: str, stream: int, place: int, head: int) -> tuple[F64, F64]:
        key = (form, stream, place, head)
        if key not in known:
            known[key] = (store.sealed if form == "codes" else store.paged)(stream, place, head)
        return known[key]

    return read
