"""A random layer in every state a kernel may meet: what to attend to, and what must come out."""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from oracle import tile
from oracle.layer import Logits, Store, attend_layer
from oracle.rotate import block_of, rotate
from oracle.side import (
    FIT_MINMAX,
    META_Q8,
    TILE,
    Side,
    key_side,
    key_strips,
    ranked_side,
    unbiased_side,
    value_side,
)
from oracle.table import NOT_SEALED, Table

from xquant_gguf.selftest.kernels import ApiLayer

from .guard import Guarded
from .lib import address, api_side, call

SEALED, BOTH, PAGE, EMPTY = "sealed", "both", "page", "empty"
LAYOUTS = {
    "sealed": (SEALED,),
    "pages": (PAGE,),
    "boundary": (BOTH,),
    "mixed": (SEALED, PAGE, BOTH, EMPTY, SEALED, BOTH),
}
ETA = {1: 1 / 6, 2: 0.045, 3: 0.0, 4: 0.0}


@dataclass(frozen=True)
class Shape:
    """What a case looks like; ``tokens`` and ``n_kv`` are those of one stream.

    ``k_ranked``: bits a channel of ranked keys; 0: all rows have ``k_bits``.
    ``v_unbiased``: values have no zero points. Neither kind can ``follow``.
    ``v_rotate``: values lie rotated in codes and pages.
    """

    dk: int = 64
    dv: int = 64
    heads: int = 2
    group: int = 1
    tokens: int = 3
    streams: int = 1
    first_stream: int = 0
    n_kv: int = 160
    k_bits: int = 2
    v_bits: int = 2
    k_meta: int = META_Q8
    v_meta: int = META_Q8
    k_ranked: float = 0.0
    v_unbiased: bool = False
    v_rotate: bool = False
    layout: str = "mixed"
    data: str = "normal"
    follow: bool = False
    fit: int = FIT_MINMAX
    softcap: float = 0.0
    max_bias: float = 0.0
    sinks: bool = False
    holes: bool = False
    blind: bool = False
    seed: int = 0

    @property
    def k(self) -> Side:
        if self.k_ranked:
            words = words_of(self.k_ranked, key_strips(self.dk)[0])
            return ranked_side(self.dk, words, ETA[1], ETA[2])
        return key_side(self.dk, self.k_bits, self.k_meta, ETA[self.k_bits], self.fit)

    @property
    def v(self) -> Side:
        rot = block_of(self.dv) if self.v_rotate else 0
        if self.v_unbiased:
            return unbiased_side(self.dv, self.v_bits, rot)
        side = value_side(self.dv, self.v_bits, self.v_meta, ETA[self.v_bits], self.fit)
        return replace(side, rot=rot)

    @property
    def n_tiles(self) -> int:
        """One more than the queries may look at."""
        return -(-self.n_kv // TILE) + 1


class Case:
    """Arrays as the kernels take them, the same as the oracle takes them, and its answer."""

    def __init__(self, shape: Shape) -> None:
        self.shape = s = shape
        self.rng = np.random.default_rng([s.seed, s.dk, s.tokens, s.n_kv, s.k_bits, s.v_bits])
        self.n_streams = s.first_stream + s.streams
        self.n_pages = s.n_tiles + 2
        self.cells = self._cells()
        self._allocate()
        self.table = self._table()
        self._fill()
        n_head = s.heads * s.group
        self.q = self.rng.standard_normal((s.streams * s.tokens, n_head, s.dk)).astype(np.float32)
        self.mask = self._mask()
        sinks = self.rng.standard_normal(n_head).astype(np.float32) if s.sinks else None
        scale = float(np.float32(1 / np.sqrt(s.dk)))
        self.logits = Logits(scale, s.softcap, s.max_bias, sinks)
        self.recompute()

    def recompute(self) -> None:
        """Ask the oracle, again if the table has changed."""
        self.want = attend_layer(self.store, self.table, self.q, self.mask, self.logits)

    def run(
        self, impl: str, *, whole_rows: bool = False, n_threads: int = 1
    ) -> NDArray[np.float32]:
        """The kernels' output; fails if they wrote anywhere else."""
        out = Guarded(self.want.shape, np.float32, np.nan)
        table = self.table.ints()
        layer = self.layer(table, n_threads)
        layer.q, layer.mask, layer.sinks = map(address, (self.q, self.mask, self.logits.sinks))
        layer.out, layer.whole_rows = address(out.data), whole_rows
        before = self.bytes()
        call("xq_api_attend", impl, layer)
        out.check()
        assert self.bytes() == before, "attention changed the cache"
        return out.data

    def layer(self, table: NDArray[np.int32], n_threads: int = 1) -> ApiLayer:
        """The cache as the C API takes it, without queries."""
        s = self.shape
        layer = ApiLayer(
            dk=s.dk,
            dv=s.dv,
            n_head=s.heads * s.group,
            n_head_kv=s.heads,
            n_tokens=s.streams * s.tokens,
            n_stream=s.streams,
            n_kv=s.n_kv,
            n_tiles=s.n_tiles,
            n_rows=self.n_pages * TILE,
            n_threads=n_threads,
            scale=1 / np.sqrt(s.dk),
            softcap=s.softcap,
            max_bias=s.max_bias,
            k=api_side(s.k),
            v=api_side(s.v),
            k_leads=int(not s.follow),
            v_leads=int(not s.follow),
        )
        for name, array in self.arrays.items():
            setattr(layer, name, ctypes.c_void_p(address(array.data)))
        layer.table = address(table)
        return layer

    def bytes(self) -> bytes:
        """Everything in the cache and around it."""
        for array in self.arrays.values():
            array.check()
        return b"".join(array.data.tobytes() for array in self.arrays.values())

    def _allocate(self) -> None:
        s, n = self.shape, self.n_streams
        per_head = n, s.n_tiles, s.heads
        meta_k = s.n_tiles * s.heads * s.k.head_meta
        meta_v = s.n_tiles * s.heads * s.v.head_meta
        nan = np.float16(np.nan)
        self.arrays = {
            "k_codes": Guarded((*per_head, s.k.head_words), np.uint32, 0xFFFFFFFF),
            "v_codes": Guarded((*per_head, s.v.head_words), np.uint32, 0xFFFFFFFF),
            "meta": Guarded((n, meta_k + meta_v), np.uint8, 0xFF),
            "k_pages": Guarded((n, self.n_pages * TILE, s.heads, s.dk), np.float16, nan),
            "v_pages": Guarded((n, self.n_pages * TILE, s.heads, s.dv), np.float16, nan),
        }
        meta = self.arrays["meta"].data
        self.store = Store(
            s.k,
            s.v,
            self.arrays["k_codes"].data,
            self.arrays["v_codes"].data,
            meta[:, :meta_k].reshape(*per_head, s.k.head_meta),
            meta[:, meta_k:].reshape(*per_head, s.v.head_meta),
            self.arrays["k_pages"].data,
            self.arrays["v_pages"].data,
        )

    def _cells(self) -> NDArray[np.bool_]:
        """Cells with data [stream][tile][32]."""
        s = self.shape
        shape = s.streams, s.n_tiles, TILE
        if not s.holes:
            return np.ones(shape, bool)
        cells = self.rng.random(shape) < 0.6
        cells[..., 5] = True  # a tile without data is never sealed
        return cells

    def _table(self) -> Table:
        s, rng = self.shape, self.rng
        forms = LAYOUTS[s.layout]
        page = np.full((s.streams, s.n_tiles), -1, np.int32)
        since = np.full((s.streams, s.n_tiles), NOT_SEALED, np.int32)
        first = s.n_kv - s.tokens if s.n_kv > s.tokens else 0
        pos = np.tile(np.arange(first, first + s.tokens), s.streams)
        self.forms: dict[tuple[int, int], str] = {}
        self.page_of: dict[tuple[int, int], int] = {}
        for stream in range(s.streams):
            pages = rng.permutation(self.n_pages)
            for t in range(s.n_tiles):
                form = forms[(t + stream) % len(forms)]
                self.forms[stream, t] = form
                self.page_of[stream, t] = int(pages[t])
                if form in (PAGE, BOTH):
                    page[stream, t] = pages[t]
                if form in (SEALED, BOTH):
                    since[stream, t] = int(rng.choice(pos)) + int(rng.integers(-1, 2))
        return Table(pos.astype(np.int32), page, since, s.first_stream)

    def _fill(self) -> None:
        """Data into every tile's page, sealed where the table says so.

        Pages that nobody may read and the words of tiles that are not sealed
        keep values that would spoil the result.
        """
        s, store = self.shape, self.store
        for (stream, t), form in self.forms.items():
            if form == EMPTY:
                continue
            at = s.first_stream + stream
            rows = slice(self.page_of[stream, t] * TILE, (self.page_of[stream, t] + 1) * TILE)
            keys = values(self.rng, (TILE, s.heads, s.dk), s.data)
            vals = values(self.rng, (TILE, s.heads, s.dv), s.data)
            vals = rotate(vals, s.v.rot).astype(np.float16)
            if form in (SEALED, BOTH):
                for head in range(s.heads):
                    self._seal(at, t, head, keys[:, head], vals[:, head], self.cells[stream, t])
            if form in (PAGE, BOTH):
                store.k_pages[at, rows], store.v_pages[at, rows] = keys, vals

    def _seal(
        self,
        stream: int,
        t: int,
        head: int,
        keys: NDArray[np.float16],
        vals: NDArray[np.float16],
        cells: NDArray[np.bool_],
    ) -> None:
        s, store = self.shape, self.store
        k32, v32 = keys.astype(np.float32), vals.astype(np.float32)
        leader = [None, None]
        if s.follow:
            noise = self.rng.standard_normal(k32.shape).astype(np.float32)
            leader[0] = tile.seal_keys(k32 + noise * 0.3, s.k, cells)[0]
            noise = self.rng.standard_normal(v32.shape).astype(np.float32)
            leader[1] = tile.seal_values(v32 + noise * 0.3, s.v, cells)[0]
        at = stream, t, head
        store.k_codes[at], store.k_meta[at] = tile.seal_keys(k32, s.k, cells, leader[0])
        store.v_codes[at], store.v_meta[at] = tile.seal_values(v32, s.v, cells, leader[1])

    def _mask(self) -> NDArray[np.float16]:
        """Causal, with cells hidden at random, holes and, if wanted, queries that see nothing."""
        s, rng = self.shape, self.rng
        cell = np.arange(s.n_kv)
        pos = self.table.pos.reshape(s.streams, s.tokens)
        distance = pos[:, :, None] - cell
        mask = -np.abs(distance).astype(np.float16) if s.max_bias else np.zeros(distance.shape)
        hidden = (distance < 0) | (rng.random(distance.shape) < 0.1)
        hidden |= ~self.cells.reshape(s.streams, -1)[:, None, : s.n_kv]
        mask[hidden] = -np.inf
        if s.blind:
            mask[:, rng.integers(s.tokens)] = -np.inf
        return mask.astype(np.float16)


def words_of(bits: float, rows: int) -> int:
    """u32 words a lane of a strip of keys takes with this many bits a row on average."""
    return max(1, round(bits * rows / 32))


def values(rng: np.random.Generator, shape: tuple[int, ...], kind: str) -> NDArray[np.float16]:
    """Random f16 data: "normal", or a kind that is hard on a quantiser."""
    x = rng.standard_normal(shape)
    if kind == "outlier":
        x[..., 3] *= 1000
    elif kind == "offset":
        x[..., 3] += 1000
    elif kind == "constant":
        x[..., ::2] = 0.75
    elif kind == "equal":
        x[...] = -1.25
    elif kind == "huge":
        x = np.clip(x * 6000, -25000, 25000)
    elif kind == "tiny":
        x *= 1e-6
    elif kind == "spread":
        x *= 2 ** rng.uniform(-6, 6, shape[-1])
    else:
        assert kind == "normal", kind
    return x.astype(np.float16)


@functools.lru_cache(maxsize=256)
def build(shape: Shape) -> Case:
    """The case of a shape, once for all implementations."""
    return Case(shape)
