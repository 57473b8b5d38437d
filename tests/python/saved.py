"""Saving, restoring and reading states: the layout of cpp/cache/state.cpp a second time."""

from __future__ import annotations

import ctypes
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

ALL = 0xFFFFFFFF
OUTER = 8
"""Bytes that llama.cpp puts before the state of a sequence: a mark and the sequence's number."""


def save(ctx: Any, sequence: int = 0) -> bytes:
    """The state of one sequence, or of the whole context for -1."""
    api = ctx.model.api
    if sequence < 0:
        data = (ctypes.c_uint8 * api.llama_state_get_size(ctx.handle))()
        n = api.llama_state_get_data(ctx.handle, data, len(data))
    else:
        data = (ctypes.c_uint8 * api.llama_state_seq_get_size(ctx.handle, sequence))()
        n = api.llama_state_seq_get_data(ctx.handle, data, len(data), sequence)
    assert n == len(data) > 0
    return bytes(data)


def restore(ctx: Any, state: bytes, sequence: int = 0) -> bool:
    """Whether it is taken; ``ctx.held`` then says what the cache holds."""
    api = ctx.model.api
    data = ctypes.cast(ctypes.c_char_p(state), ctypes.POINTER(ctypes.c_uint8))
    if sequence < 0:
        n = api.llama_state_set_data(ctx.handle, data, len(state))
    else:
        n = api.llama_state_seq_set_data(ctx.handle, data, len(state), sequence)
    memory = api.llama_get_memory(ctx.handle)
    for s in range(len(ctx.held)):
        ctx.held[s] = api.llama_memory_seq_pos_max(memory, s) + 1
    assert n in (0, len(state))
    return bool(n)


def remove(ctx: Any, sequence: int, start: int = -1, end: int = -1) -> None:
    memory = ctx.model.api.llama_get_memory(ctx.handle)
    assert ctx.model.api.llama_memory_seq_rm(memory, sequence, start, end)
    ctx.held[sequence] = ctx.model.api.llama_memory_seq_pos_max(memory, sequence) + 1


def tokens(ctx: Any) -> int:
    return int(ctx.snapshot().tokens)


def sections(state: bytes, at: int = OUTER) -> Iterator[tuple[int, int]]:
    """Start and length of the bytes of every section; its checksum is right."""
    crc = zlib.crc32(state[at : at + 8])
    at += 8
    while at < len(state):
        (n,) = struct.unpack_from("<I", state, at)
        crc = zlib.crc32(state[at : at + 4 + n], crc)
        assert struct.unpack_from("<I", state, at + 4 + n) == (crc,)
        yield at + 4, n
        at += n + 8


@dataclass(frozen=True)
class Tile:
    """One tile of a sequence's state; ``data`` are its keys and values."""

    cells: int
    sealed: bool
    positions: tuple[int, ...]
    data: bytes

    @property
    def size(self) -> int:
        return len(self.data)


def tiles(state: bytes) -> list[Tile]:
    """The tiles of a sequence's state, in order."""
    found = []
    for at, n in list(sections(state))[1:]:
        stream, tile, cells, sealed = struct.unpack_from("<IIII", state, at)
        assert (stream, tile) == (0, 0)
        count, start = cells.bit_count(), at + 16
        positions = tuple(struct.unpack_from("<i", state, start + 16 * i)[0] for i in range(count))
        found.append(Tile(cells, bool(sealed), positions, state[start + 16 * count : at + n]))
    return found


def forms(state: bytes) -> dict[tuple[int, int], tuple[int, bool]]:
    """Of a whole context: the cells of every stream and tile, and whether they are codes."""
    at = 4 + struct.unpack_from("<I", state)[0]  # the architecture's name
    found = {}
    for start, _ in list(sections(state, at))[1:]:
        stream, tile, cells, sealed = struct.unpack_from("<IIII", state, start)
        found[stream, tile] = cells, bool(sealed)
    return found


META = 2 * (20 + 64 * 7 // 4), 2 * 36
"""Bytes of a layer's metadata of keys and of values in the tests' model: two heads of 64."""


@dataclass(frozen=True)
class LayerBytes:
    """Bytes of metadata a sealed tile, and of codes a token."""

    meta: int
    token: int


def layer_bytes(found: list[Tile], layers: int) -> LayerBytes:
    """From the whole tiles of a state."""
    sizes = {t.size for t in found if t.sealed and t.cells == ALL}
    assert len(sizes) == 1
    meta = sum(META)
    return LayerBytes(meta, (sizes.pop() // layers - meta) // 32)


def value_scales(tile: Tile, layers: int) -> Iterator[bytes]:
    """Scale codes of the 32 cells, for every layer and head."""
    step = tile.size // layers
    for layer in range(layers):
        end = (layer + 1) * step
        for head in range(2):
            at = end - META[1] + head * 36 + 4
            yield tile.data[at : at + 32]


def metric(state: bytes, size: int) -> tuple[int, NDArray[np.uint8]]:
    """Where the steps of all layers' keys lie in a sequence's state, and these."""
    head, _ = next(sections(state))
    at = head + 5 * 4 + 17 * 4
    return at, np.frombuffer(state, np.uint8, size, at)
