"""``python -m check.speed SIZE SHAPE FOLDER KV DEPTHS LAST``: how fast a cache is on the device.

The model is written into the folder first, if it is not there (check/shapes.py).

Up to ``LAST`` tokens the cache is filled by a prompt, and that is the time of prefill. Beyond it,
the short cut: the state of these tokens is saved and written back with its tiles (or rows) over
and over, at positions from 0 on. A step reads as much as with a real prompt of that depth; what it
reads is the same text again. A model with recurrent layers has no such state: it stops at ``LAST``.

Steps go on from the depth, so each 32nd one seals a tile, as in a chat.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import statistics
import struct
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xquant_gguf.bench.repeat import repeated
from xquant_gguf.config import resolve_kv
from xquant_gguf.errors import UnsupportedModelError, XQuantError
from xquant_gguf.eval.contexts import Context, Model
from xquant_gguf.memory import padded_ctx
from xquant_gguf.stock import StockKV

from .run import say
from .shapes import LARGE, SMALL, Shape, write

SIZES = {"large": LARGE, "small": SMALL}
STEPS = 32
WARM = 3
BATCH = 512
THREADS = 4
TILE = 32
OUTER = 8
"""Bytes that llama.cpp puts before the state of a sequence."""

CELL = 16  # bytes: a position, llama_kv_cell_ext


@dataclasses.dataclass(frozen=True)
class Row:
    """One depth; ``prefill_s`` is of the tokens since the one before, None if repeated."""

    kv: str
    depth: int
    filled: str
    step_ms: float
    step_ms_low: float
    step_ms_high: float
    prefill_tokens: int
    prefill_s: float | None
    kv_bytes: int


def deepened(state: bytes, depth: int) -> bytes:
    """A packed sequence's state with ``depth`` tokens (layout: cpp/cache/state.cpp).

    Sealed tiles are repeated in order; a sink before them and the newest rows stay where they are.
    """
    head, *tiles = sections(state)
    forms = [struct.unpack_from("<II", tile, 8) for tile in tiles]  # cells, 1: codes
    whole = [i for i, form in enumerate(forms) if form == (0xFFFFFFFF, 1)]
    if not whole or any(form[1] for form in (*forms[: whole[0]], *forms[whole[-1] + 1 :])):
        raise XQuantError("the short cut needs whole sealed tiles", "none", "a longer prompt")
    first, middle, last = tiles[: whole[0]], tiles[whole[0] : whole[-1] + 1], tiles[whole[-1] + 1 :]
    around = sum(bin(struct.unpack_from("<I", tile, 8)[0]).count("1") for tile in first + last)
    room, left = divmod(depth - around, TILE)
    if room < len(middle) or left:
        raise XQuantError("the short cut adds whole tiles", f"{depth} tokens", "another depth")
    chosen = [*first, *(middle[i % len(middle)] for i in range(room)), *last]
    out, position = [state[: OUTER + 8]], 0
    crc = zlib.crc32(out[0][OUTER:])
    numbers = struct.pack("<II", len(chosen), depth)
    for section in (head[:12] + numbers + head[20:], *chosen):
        if len(out) > 1:
            section, position = moved(section, position)
        size = struct.pack("<I", len(section))
        crc = zlib.crc32(section, zlib.crc32(size, crc))
        out += [size, section, struct.pack("<I", crc)]
    return b"".join(out)


def sections(state: bytes) -> Iterator[bytes]:
    at = OUTER + 8
    while at < len(state):
        (n,) = struct.unpack_from("<I", state, at)
        yield state[at + 4 : at + 4 + n]
        at += n + 8


def moved(tile: bytes, position: int) -> tuple[bytes, int]:
    """The tile with its cells at positions from ``position`` on, and the position behind it."""
    out = bytearray(tile)
    n = bin(struct.unpack_from("<I", tile, 8)[0]).count("1")
    for i in range(n):
        struct.pack_into("<i", out, 16 + CELL * i, position + i)
    return bytes(out), position + n


def deepen(context: Context, depth: int) -> None:
    """Make the cache hold ``depth`` tokens: what it holds, over and over."""
    api = context.model.api
    size = api.llama_state_seq_get_size(context.handle, 0)
    buffer = (ctypes.c_uint8 * size)()
    written = api.llama_state_seq_get_data(context.handle, buffer, size, 0)
    state = bytes(memoryview(buffer)[:written])
    if isinstance(context.kv, StockKV):
        longer = repeated(state, context.held[0], depth)
    else:
        longer = bytearray(deepened(state, depth))
    context.clear()
    data = (ctypes.c_uint8 * len(longer)).from_buffer(longer)
    if api.llama_state_seq_set_data(context.handle, data, len(longer), 0) == 0:
        reason = context.model.native.last_error()
        raise XQuantError("llama.cpp must take the longer state", reason, "leave the depth out")
    context.held[0] = depth


def fill(
    context: Context, depth: int, last: int, tokens: list[int]
) -> tuple[str, int, float | None]:
    """How it was filled, with how many tokens, and in how many seconds."""
    held = context.held[0]
    if depth <= last:
        start = time.perf_counter()
        context.feed(tokens[held:depth], logits="last")
        return "prompt", depth - held, time.perf_counter() - start
    deepen(context, depth)
    return "repeated", depth - held, None


def steps(context: Context, tokens: list[int]) -> list[float]:
    ms = []
    for i in range(WARM + STEPS):
        start = time.perf_counter()
        context.feed(tokens[i : i + 1], logits="last")
        ms.append(1000 * (time.perf_counter() - start))
    return ms[WARM:]


def written(shape: Shape, folder: Path) -> Path:
    """The model's file; others of its kind make room for it."""
    path = folder / f"{shape.name}.gguf"
    if not path.exists():
        for other in (s for shapes in SIZES.values() for s in shapes.values()):
            (folder / f"{other.name}.gguf").unlink(missing_ok=True)
        start = time.perf_counter()
        say(model_bytes=write(path, shape), written_s=time.perf_counter() - start)
    return path


def main() -> int:
    size, shape, folder, name, text, end = sys.argv[1:]
    depths, last = [int(x) for x in text.split(",")], int(end)
    model = Model(str(written(SIZES[size][shape], Path(folder))), gpu_layers=-1)
    n_ctx = padded_ctx(depths[-1] + 64)
    context = Context(model, resolve_kv(name), n_ctx=n_ctx, threads=THREADS, batch=BATCH)
    rng = np.random.default_rng(9)
    tokens = rng.integers(0, model.n_vocab, max(last, 64)).tolist()
    context.feed(tokens[: min(BATCH, last)], logits="last")  # kernels are loaded, buffers touched
    context.clear()
    for depth in depths:
        filled, n, seconds = ("nothing", 0, None)
        if depth:
            filled, n, seconds = fill(context, depth, last, tokens)
        ms = steps(context, tokens)
        quartiles = statistics.quantiles(ms, n=4)
        row = Row(
            name,
            depth,
            filled,
            statistics.median(ms),
            quartiles[0],
            quartiles[2],
            n,
            seconds,
            context.snapshot().bytes_total,
        )
        print(row, flush=True)
        say(row=dataclasses.asdict(row))
        if depth < depths[-1]:
            undo(context, depth)
    return 0


def undo(context: Context, depth: int) -> None:
    """Forget the steps; a model that cannot goes on from where they led, a few tokens deeper."""
    with contextlib.suppress(UnsupportedModelError):
        context.rewind(depth)


if __name__ == "__main__":
    sys.exit(main())
